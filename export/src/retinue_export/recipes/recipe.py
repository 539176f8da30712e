"""What every recipe consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export.assembly import Candidate, Quality
from retinue_export.inputs import Uint8
from retinue_export.packaging import Packaging

LICENCE = "Apache-2.0"
"""Of weights that a recipe made; Fashion-MNIST itself is MIT."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One of Retinue's own models.

    Attributes:
        manifest: what its manifest says whatever the training brings: name, task, labels, options, description.
        network: builds the network with random weights.
        train: trains one; takes a `training.Report` and the trained networks of `learns_from`, in that order; returns
            the network in evaluation mode.
        packaging: how the network becomes a graph.
        parity_images: gives uint8 [N,H,W,C], real inputs.
        parity_inputs: what these are, for people.
        quality: builds what measures it; slow, so only called when needed.
        learns_from: the recipes of the networks that this one goes on from or is taught by.
    """

    manifest: pb.ModelManifest
    network: Callable[[], nn.Module]
    train: Callable[..., nn.Module]
    packaging: Packaging
    parity_images: Callable[[], Uint8]
    parity_inputs: str
    quality: Callable[[], Quality]
    learns_from: tuple[Self, ...] = ()

    def candidate(self, network: nn.Module) -> Candidate:
        """Prepares a trained network for export."""
        manifest = pb.ModelManifest()
        manifest.CopyFrom(self.manifest)
        return Candidate(
            manifest=manifest,
            network=network,
            packaging=self.packaging,
            parity_images=self.parity_images,
            parity_inputs=self.parity_inputs,
            quality=self.quality(),
        )


def source(network: type[nn.Module], training: str) -> pb.Source:
    """Says where a network of this package comes from."""
    return pb.Source(
        framework=f"torch {version('torch').split('+')[0]}",
        architecture=f"{network.__module__}.{network.__qualname__}",
        weights=training,
        licence=LICENCE,
    )
