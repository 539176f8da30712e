"""From a PyTorch module to an ONNX graph that keeps the bundle contract: uint8 pixels in, answers out."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from retinue_export import nodes
from retinue_export.errors import ExportError
from retinue_export.translations import TRANSLATIONS

OPSET = 20
IR_VERSION = 10
"""What opset 20 came with; newer ones shut out older runtimes."""
_SMALLEST_STORED = 64
"""Initialisers of fewer values than this stay as they are: a Cast node would take more room."""
_LARGEST_FP16 = float(np.finfo(np.float16).max)


class PixelsIn(nn.Module):
    """Puts the normalisation before a network, so that it takes the pixels that the server prepares.

    Args:
        network: takes float32 [N,C,H,W].
        mean: a level in [0, 1] for each channel, subtracted.
        deviation: likewise, divided by.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        scale = 1 / (255 * torch.tensor(deviation, dtype=torch.float64))
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(deviation, dtype=torch.float64)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("offset", offset.float(), persistent=False)
        self.scale: Tensor
        self.offset: Tensor

    def normalise(self, images: Tensor) -> Tensor:
        """Brings uint8 [N,H,W,C] to the network's float32 [N,C,H,W].

        Whole rows are multiplied by rows: a factor for each of three neighbouring values costs a runtime ten times as
        much, and runtimes of 8-bit integers want the channels last.
        """
        width = images.shape[2]
        rows = images.float() * self.scale.repeat(width, 1) + self.offset.repeat(width, 1)
        return rows.permute(0, 3, 1, 2).contiguous()

    def forward(self, images: Tensor) -> Tensor:
        """Runs the network on uint8 [N,H,W,C]."""
        answer: Tensor = self.network(self.normalise(images))
        return answer


class Classifying(PixelsIn):
    """A classifier from pixels to probabilities."""

    def forward(self, images: Tensor) -> Tensor:
        """Maps uint8 [N,H,W,C] to probabilities float32 [N,K]."""
        return torch.softmax(super().forward(images), dim=1)


class Segmenting(PixelsIn):
    """A segmenter from pixels to a class map."""

    def forward(self, images: Tensor) -> Tensor:
        """Maps uint8 [N,H,W,C] to a class map, uint8 [N,h,w]; of equal scores the lowest class wins."""
        return super().forward(images).argmax(dim=1).to(torch.uint8)


class Detecting(PixelsIn):
    """A detector up to suppression, from pixels to boxes and their scores; the network gives both."""

    def forward(self, images: Tensor, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Maps uint8 [N,H,W,C] to boxes float32 [N,A,4] inside the input, and scores float32 [N,classes,A].

        Boxes of which nothing is inside score 0. A network that looks at regions takes them too: float32 [N,R,4],
        x1,y1,x2,y2 in input pixels, unused rows 0.
        """
        pixels = self.normalise(images)
        boxes, answer = self.network(pixels) if regions is None else self.network(pixels, regions)
        boxes = self.inside(boxes, images)
        seen = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        return boxes, self.scores(answer) * seen.unsqueeze(1)

    def inside(self, boxes: Tensor, images: Tensor) -> Tensor:
        """Cuts boxes off at the edges of images, uint8 [N,H,W,C]."""
        height, width = images.shape[1:3]
        x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
        return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)

    def scores(self, answer: Tensor) -> Tensor:
        """Scores float32 [N,classes,A], as the network gives them."""
        return answer


class DetectingByLogits(Detecting):
    """Likewise, where the network gives logits [N,A,classes] of independent classes."""

    def scores(self, answer: Tensor) -> Tensor:
        """Scores float32 [N,classes,A]."""
        return answer.transpose(1, 2).sigmoid()


@torch.no_grad()
def rounded_to_fp16(module: nn.Module) -> nn.Module:
    """Rounds every weight of two or more dimensions to the nearest 16-bit float.

    Returns:
        A copy whose parameters are still float32, but can be stored in half the bytes without loss.

    Raises:
        ExportError: a weight is too large for 16 bits.
    """
    module = copy.deepcopy(module)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            require_fp16_range(name, parameter.float().numpy())
            parameter.copy_(parameter.half().float())
    return module


def require_fp16_range(name: str, values: NDArray[np.float32]) -> None:
    """Refuses a weight with values that a 16-bit float cannot hold; what is infinite already stays so.

    Raises:
        ExportError: there are such values.
    """
    sizes = np.abs(values)
    if (too_large := sizes[(sizes > _LARGEST_FP16) & np.isfinite(sizes)]).size:
        raise ExportError(
            f"The network's weight `{name}` has values of up to {too_large.max():.3g}, and 16-bit floats "
            f"end at {_LARGEST_FP16:,.0f}: export it with --precision fp32."
        )


def export(
    module: nn.Module, example: Tensor, outputs: list[str], further: Mapping[str, Tensor] | None = None
) -> onnx.ModelProto:
    """Exports a module with a dynamic batch.

    Args:
        module: takes `images`, a batch first, and what is in `further`; returns one tensor or a tuple of tensors, batch
            first.
        example: an input of batch size 2 or more.
        outputs: the graph's names for what the module returns.
        further: examples of its other inputs, of the same batch size, by their names.

    Returns:
        The graph: inputs `images` and those of `further`, outputs as named, first dimension of all of them `batch`,
        without traces of the machine that made it.

    Raises:
        ExportError: PyTorch's exporter cannot follow the module, or not for every batch size.
    """
    examples = {"images": example, **(further or {})}
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                dynamo=True,
                input_names=list(examples),
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in examples),
                custom_translation_table=TRANSLATIONS,
                opset_version=OPSET,
                verbose=False,
            )
    except OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ExportError(
            f"PyTorch's exporter cannot follow the module: {first_line(cause)} (docs/export.md says what to do)."
        ) from error
    except SystemExit as error:
        raise ExportError("The module ends the program when PyTorch's exporter runs it.") from error
    assert program is not None
    model = program.model_proto
    strip(model)
    for answer in model.graph.output:
        if answer.type.tensor_type.shape.dim[0].HasField("dim_value"):
            raise ExportError(
                f"The module fixes the batch size: `{answer.name}` has as many rows for any number of images."
            )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps PyTorch's exporter from logging and printing each way that it tries, and from warning of its own past."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def first_line(error: BaseException) -> str:
    """The first line that says something, without the full stop."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def strip(model: onnx.ModelProto) -> None:
    """Removes what a runtime does not need: stack traces, documentation, inferred shapes, unused metadata."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name = "retinue-export"
    model.producer_version = ""
    model.doc_string = ""
    del model.metadata_props[:]
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    """Likewise of a graph, and of those inside its operators."""
    del graph.value_info[:]
    parts: tuple[Any, ...] = (graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for inner in nodes.inner_graphs(node):
            _strip_graph(inner)


def store_as_fp16(model: onnx.ModelProto) -> None:
    """Stores every weight that a 16-bit float holds exactly in 16 bits, with a Cast that a runtime folds at load.

    Changes no number: weights that would change stay as they are.
    """
    casts = []
    kept = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            kept.append(tensor)
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _SMALLEST_STORED or not np.array_equal(half.astype(np.float32), values):
            kept.append(tensor)
            continue
        stored = numpy_helper.from_array(half, f"{tensor.name}.fp16")
        casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
        kept.append(stored)
    ordered = [*casts, *model.graph.node]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
