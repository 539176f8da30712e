"""Class activation maps: where in the image a classifier sees what it names, as an optional output of its graph."""

from dataclasses import replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import evidence, graph
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Packaging
from retinue_export.parity import Outputs, Runner

_SAMPLE = 4
"""On so many images it is shown that a network's head is understood."""


class Locating(graph.PixelsIn):
    """A classifier that also says where; its network gives logits and evidence, see `evidence.attach`."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Answers uint8 [N,H,W,C].

        Returns:
            Probabilities float32 [N,K], and the heatmap of the most probable class, float32 [N,h,w]: the evidence for
            it, in logits more than for the average class. So it does not change when all logits grow alike, which
            probabilities do not feel either.
        """
        logits, parts = self.network(self.normalise(images))
        best = logits.argmax(dim=1).view(-1, 1, 1, 1).expand(-1, *parts.shape[1:3], 1)
        return torch.softmax(logits, dim=1), parts.gather(3, best).squeeze(3) - parts.mean(dim=3)


class LocatingClassifier(Packaging):
    """Packages networks that return logits [N,K], and from which evidence can be had.

    Args:
        classifier: how the same network is packaged without heatmap.
        sample: uint8 [n,H,W,C], two or more images as the server prepares them, for `evidence.attach`.
    """

    def __init__(self, classifier: Packaging, sample: NDArray[np.uint8]) -> None:
        super().__init__(classifier.spec, classifier.normalisation)
        normalise = graph.PixelsIn(nn.Identity(), self.normalisation.mean, self.normalisation.deviation)
        self._classifier = classifier
        self._sample: Tensor = normalise(torch.from_numpy(sample[:_SAMPLE]))

    def locating(self, network: nn.Module) -> Locating:
        """Wraps the network, traced.

        Raises:
            NoEvidenceError: see `evidence.attach`.
        """
        both = evidence.attach(network, self._sample)
        return Locating(both, self.normalisation.mean, self.normalisation.deviation)

    def module(self, network: nn.Module) -> nn.Module:
        """See `Packaging`.

        Raises:
            ExportError: no heatmap can be had from the network, such as one whose weights have lost too much.
        """
        try:
            return self.locating(network)
        except evidence.NoEvidenceError as error:
            raise ExportError(
                f"No heatmap can be had from the network that is in the bundle, since {error}: export it with "
                "--precision fp32 or --no-heatmap."
            ) from error

    def reference(self, network: nn.Module) -> Runner:
        """See `Packaging`. Probabilities are the network's own, and not those of its trace."""
        plain, located = self._classifier.reference(network), super().reference(network)
        return lambda images: located(images) | plain(images)

    def graph(self, network: nn.Module) -> onnx.ModelProto:
        """See `Packaging`."""
        return graph.export(self.module(network), self.example(), ["probabilities", "heatmap"])

    def _named(self, answer: Tensor | tuple[Tensor, ...]) -> Outputs:
        probabilities, heatmap = answer
        return {"probabilities": probabilities.numpy(), "heatmap": heatmap.numpy()}


def add(candidate: Candidate) -> Candidate:
    """Gives a classifier's bundle a heatmap.

    Raises:
        NoEvidenceError: none can be had from its network.
    """
    images = candidate.parity_images()[:_SAMPLE]
    packaging = LocatingClassifier(candidate.packaging, images)
    with torch.no_grad():
        _, heatmap = packaging.locating(candidate.network.eval())(torch.from_numpy(images))
    manifest = pb.ModelManifest()
    manifest.CopyFrom(candidate.manifest)
    manifest.classify.heatmap_height, manifest.classify.heatmap_width = heatmap.shape[1:]
    return replace(candidate, packaging=packaging, manifest=manifest)


def of_bundle(manifest: pb.ModelManifest, packaging: Packaging, images: NDArray[np.uint8]) -> Packaging:
    """How a bundle's network is packaged: with a heatmap where its manifest has one.

    Args:
        manifest: the bundle's.
        packaging: how it is packaged without.
        images: uint8 [n,H,W,C], the first of which become the sample of `LocatingClassifier`.
    """
    return LocatingClassifier(packaging, images) if manifest.classify.heatmap_height else packaging
