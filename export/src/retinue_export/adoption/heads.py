"""What is put behind a foreign graph so that it answers as a bundle does, as nodes and once more in PyTorch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor
from torch.nn import functional

from retinue_export.class_maps import MOST_IN_A_BYTE
from retinue_export.errors import ExportError
from retinue_export.nodes import Builder
from retinue_export.parity import Outputs


class Activation(StrEnum):
    """What makes probabilities of a classifier's output."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


class Head(ABC):
    """Turns a foreign graph's outputs into a bundle's; its fields are all it needs, and can be written down."""

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What the foreign outputs are taken for, in a few words."""

    @property
    def options(self) -> frozenset[str]:
        """The fields of `Told` that it is made by, of those that not every head is."""
        return frozenset()

    @abstractmethod
    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """Adds its nodes to the graph, and makes its results the only outputs.

        Args:
            model: changed in place; opset 13 or later.
            prefix: what has been put before the names that the foreign graph has.
            half: whether the graph computes with 16 bits.
        """

    @abstractmethod
    def reference(self, answers: Outputs) -> Outputs:
        """Does without ONNX what `append` does.

        Args:
            answers: the foreign outputs by their own names, batch first.

        Returns:
            What the bundle's graph must answer.

        Raises:
            ExportError: they name classes that have no label.
        """

    @abstractmethod
    def describe(self, manifest: pb.ModelManifest) -> None:
        """Writes task and task options into a manifest."""

    def feeds(self, images: NDArray[np.uint8]) -> Outputs:
        """What the graph takes beside images, by name, when nobody asks for anything special."""
        return {}


@dataclass(frozen=True, slots=True)
class Probabilities(Head):
    """For classifiers.

    Attributes:
        output: float [N,K], or [N,K,1,1].
        classes: K.
        activation: what is done to it.
    """

    output: str
    classes: int
    activation: Activation

    @property
    def meaning(self) -> str:
        """See `Head`."""
        if self.activation == Activation.NONE:
            return f"probabilities of {self.classes} classes"
        return f"logits of {self.classes} classes, made probabilities by {self.activation}"

    @property
    def options(self) -> frozenset[str]:
        """See `Head`."""
        return frozenset({"softmax"})

    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """See `Head`."""
        builder = Builder(model.graph, "probabilities.head")
        flat = builder.add("Flatten", as_float(builder, prefix + self.output, half), axis=1)
        if self.activation == Activation.SOFTMAX:
            builder.add("Softmax", flat, axis=1, result="probabilities")
        else:
            builder.add(
                "Sigmoid" if self.activation == Activation.SIGMOID else "Identity",
                flat,
                result="probabilities",
            )
        set_output(model, "probabilities", TensorProto.FLOAT, [self.classes])

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        values = floats(answers[self.output]).flatten(1)
        if self.activation == Activation.SOFTMAX:
            values = values.softmax(dim=1)
        elif self.activation == Activation.SIGMOID:
            values = values.sigmoid()
        return {"probabilities": values.numpy()}

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Head`."""
        manifest.task = pb.TASK_CLASSIFY


@dataclass(frozen=True, slots=True)
class ClassMap(Head):
    """For segmenters.

    Source: transformers' `post_process_semantic_segmentation` of SegFormer: logits are scaled bilinearly, corners not
    aligned, before the best class is taken.

    Attributes:
        output: logits, float [N,K,h,w], or where `decided` the classes themselves, any integers [N,h,w] or [N,1,h,w].
        classes: K.
        height: rows of the class map.
        width: its columns.
        scaled: whether logits are brought to these first.
        decided: whether the graph has taken the best class itself.
        background: the class id of pixels that belong to no object, or -1.
    """

    output: str
    classes: int
    height: int
    width: int
    scaled: bool
    decided: bool
    background: int

    @property
    def meaning(self) -> str:
        """See `Head`."""
        what = "the class of each pixel" if self.decided else f"logits of {self.classes} classes a pixel"
        return f"{what}{f', scaled to {self.height}x{self.width}' if self.scaled else ''}"

    @property
    def options(self) -> frozenset[str]:
        """See `Head`; what the graph has decided is never scaled."""
        return frozenset() if self.decided else frozenset({"native_map"})

    @property
    def _in_bytes(self) -> bool:
        return self.classes <= MOST_IN_A_BYTE

    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """See `Head`."""
        builder = Builder(model.graph, "class_map.head")
        name = prefix + self.output
        if self.decided:
            shape = builder.constant("map", np.array([0, self.height, self.width], np.int64))
            best = builder.add("Reshape", name, shape)
        else:
            logits = as_float(builder, name, half)
            if self.scaled:
                logits = self._scale(builder, logits)
            best = builder.add("ArgMax", logits, axis=1, keepdims=0)
        kind = TensorProto.UINT8 if self._in_bytes else TensorProto.INT32
        builder.add("Cast", best, to=kind, result="class_map")
        set_output(model, "class_map", kind, [self.height, self.width])

    def _scale(self, builder: Builder, logits: str) -> str:
        size = builder.constant("size", np.array([self.height, self.width], np.int64))
        whole = builder.add("Shape", logits)
        ends = [builder.constant(f"end_{end}", np.array([end], np.int64)) for end in (0, 2)]
        sizes = builder.add("Concat", builder.add("Slice", whole, *ends), size, axis=0)
        return builder.add(
            "Resize", logits, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel"
        )

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        kind = np.uint8 if self._in_bytes else np.int32
        values = answers[self.output]
        if self.decided:
            check_ids(values, self.classes)
            return {"class_map": values.reshape(len(values), self.height, self.width).astype(kind)}
        logits = floats(values)
        if self.scaled:
            logits = functional.interpolate(
                logits, size=(self.height, self.width), mode="bilinear", align_corners=False
            )
        return {"class_map": logits.numpy().argmax(axis=1).astype(kind)}

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Head`."""
        manifest.task = pb.TASK_SEGMENT
        manifest.segment.map_height = self.height
        manifest.segment.map_width = self.width
        manifest.segment.background_class_id = self.background


def check_ids(ids: NDArray[np.generic], classes: int) -> None:
    """Holds class ids against the labels before they are cast, after which -1 would be 255.

    Args:
        ids: of any shape, integers or floats.
        classes: how many labels there are.

    Raises:
        ExportError: one has no label, or is no whole number.
    """
    found = np.unique(ids)
    for value in found:
        if value % 1:
            raise ExportError(
                f"The graph answers {value:.3g} where it should name a class: what it answers has another meaning, and "
                "cannot be adopted."
            )
    if found.size and not (found[0] >= 0 and found[-1] < classes):
        raise ExportError(
            f"The graph answers classes from {found[0]:g} to {found[-1]:g}, and there are labels for 0 to "
            f"{classes - 1}: give --labels with one line for each class; where an id stands for no class, export it "
            "without."
        )


def as_float(builder: Builder, name: str, half: bool) -> str:
    """The same in 32 bits; a runtime drops the node where it was so already.

    A runtime without 16-bit operators computes with 32 bits, and where two casts meet it leaves out both, and with them
    the rounding that the foreign graph's own outputs have. A Concat of one part between them prevents that.
    """
    return builder.add("Cast", builder.add("Concat", name, axis=1) if half else name, to=TensorProto.FLOAT)


def floats(values: NDArray[np.generic]) -> Tensor:
    """The same as a float32 tensor."""
    return torch.from_numpy(values.astype(np.float32))


def set_output(model: ModelProto, name: str, kind: int, shape: list[int]) -> None:
    """Makes this the graph's only output; `shape` is that of one image."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", *shape]))
