"""How a network of each task becomes a graph that keeps the bundle contract, and what the graph must agree with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import agreement, graph, inputs, nms, parity
from retinue_export.parity import Outputs, Runner
from retinue_server.vision.spec import InputSpec


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What is subtracted from and divided into each channel, in units of the full range 0 to 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Packaging(ABC):
    """Turns a network, float32 pixels in and raw answers out, into the graph of a bundle.

    Args:
        spec: the input that the server prepares.
        normalisation: what brings its pixels to what the network learned on.
        wrapper: the module between pixels and answer.
    """

    batch_sizes: Sequence[int] = parity.BATCH_SIZES
    """At which graph and network are compared."""
    compare = staticmethod(parity.compare)
    """Compares two runners of such networks."""

    def __init__(
        self,
        spec: InputSpec,
        normalisation: Normalisation,
        wrapper: type[graph.PixelsIn] = graph.PixelsIn,
    ) -> None:
        self.spec = spec
        self.normalisation = normalisation
        self._wrapper = wrapper

    def module(self, network: nn.Module) -> nn.Module:
        """Wraps the network: uint8 [N,H,W,C] in, what is exported out."""
        return self._wrapper(network, self.normalisation.mean, self.normalisation.deviation)

    @abstractmethod
    def graph(self, network: nn.Module) -> onnx.ModelProto:
        """Exports the wrapped network."""

    def reference(self, network: nn.Module) -> Runner:
        """Runs the wrapped network in PyTorch; answers under the names of the graph's outputs."""
        module = self.module(network).eval()

        @torch.no_grad()
        def run(images: NDArray[np.uint8]) -> Outputs:
            return self._named(module(torch.from_numpy(images), *self.further(images).values()))

        return run

    def further(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        """What the wrapped network takes beside images, in this order, a batch first."""
        return {}

    def feeds(self, images: NDArray[np.uint8]) -> Outputs:
        """What the graph takes beside images, by name, when nobody asks for anything special."""
        return {}

    def describe(self, manifest: pb.ModelManifest) -> None:  # noqa: B027 (most tasks have nothing to add)
        """Writes into a manifest what it must say of the graph."""

    def example(self) -> Tensor:
        """Makes an input to trace with: uint8 [2,H,W,C]."""
        return torch.zeros(2, self.spec.height, self.spec.width, self.spec.channels, dtype=torch.uint8)

    @abstractmethod
    def _named(self, answer: Tensor | tuple[Tensor, ...]) -> Outputs: ...


class SingleOutput(Packaging):
    """A task whose graph comes whole from PyTorch and has one output.

    Args:
        spec: see `Packaging`.
        normalisation: see `Packaging`.
        wrapper: see `Packaging`.
        output: the output's name.
        batch_sizes: see `Packaging`.
    """

    def __init__(
        self,
        spec: InputSpec,
        normalisation: Normalisation,
        wrapper: type[graph.PixelsIn],
        output: str,
        batch_sizes: Sequence[int] = parity.BATCH_SIZES,
    ) -> None:
        super().__init__(spec, normalisation, wrapper)
        self._output = output
        self.batch_sizes = batch_sizes

    def graph(self, network: nn.Module) -> onnx.ModelProto:
        """See `Packaging`."""
        return graph.export(self.module(network), self.example(), [self._output])

    def _named(self, answer: Tensor | tuple[Tensor, ...]) -> Outputs:
        assert isinstance(answer, Tensor)
        return {self._output: answer.numpy()}


def classifier(spec: InputSpec, normalisation: Normalisation) -> Packaging:
    """Packages networks that return logits [N,K]."""
    return SingleOutput(spec, normalisation, graph.Classifying, "probabilities")


def segmenter(
    spec: InputSpec, normalisation: Normalisation, batch_sizes: Sequence[int] = parity.BATCH_SIZES
) -> Packaging:
    """Packages networks that return logits [N,K,h,w] of at most 256 classes."""
    return SingleOutput(spec, normalisation, graph.Segmenting, "class_map", batch_sizes)


OF_LOGITS: Mapping[pb.Task.ValueType, Callable[[InputSpec, Normalisation], Packaging]] = {
    pb.TASK_CLASSIFY: classifier,
    pb.TASK_SEGMENT: segmenter,
}
"""How networks that return logits are packaged."""


class DetectorPackaging(Packaging):
    """Packages networks that return decoded boxes [N,A,4], and what their scores can be had from.

    Args:
        spec: see `Packaging`.
        normalisation: see `Packaging`.
        suppression: which of the boxes are detections.
        wrapper: see `Packaging`.
        regions: how many regions an image the network looks at; 0 where it finds objects by itself.
    """

    def __init__(
        self,
        spec: InputSpec,
        normalisation: Normalisation,
        suppression: nms.Suppression,
        wrapper: type[graph.PixelsIn] = graph.Detecting,
        regions: int = 0,
    ) -> None:
        super().__init__(spec, normalisation, wrapper)
        self.suppression = suppression
        self.regions = regions

    def graph(self, network: nn.Module) -> onnx.ModelProto:
        """See `Packaging`."""
        example = self.example()
        dense = graph.export(
            self.module(network), example, ["dense_boxes", "dense_scores"], self.further(example.numpy())
        )
        nms.append(dense, "dense_boxes", "dense_scores", self.suppression, adjustable=True)
        return dense

    def feeds(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Packaging`."""
        further = {name: values.numpy() for name, values in self.further(images).items()}
        return nms.thresholds(self.suppression, len(images)) | further

    def further(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        """See `Packaging`."""
        return {"regions": torch.from_numpy(inputs.regions(images, self.regions))} if self.regions else {}

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Packaging`."""
        manifest.detect.max_detections = self.suppression.max_detections
        manifest.detect.min_score = self.suppression.min_score
        manifest.detect.nms_iou_threshold = self.suppression.iou_threshold
        manifest.detect.adjustable_thresholds = True
        manifest.detect.max_regions = self.regions

    def _named(self, answer: Tensor | tuple[Tensor, ...]) -> Outputs:
        boxes, scores = answer
        return nms.reference(boxes, scores, self.suppression)


class CountedDetections(DetectorPackaging):
    """Packages detectors that are compared by counting the detections that both sides have: see `agreement`."""

    batch_sizes = parity.FEW_BATCH_SIZES
    compare = staticmethod(agreement.compare)
