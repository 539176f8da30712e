"""Whether the graph of an architecture computes what PyTorch does, shown on answers that differ between images."""

import time
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import agreement, assembly, graph, parity
from retinue_export.assembly import Candidate, Exported
from retinue_export.catalogue.heads import enliven_heads
from retinue_export.catalogue.liveness import enliven, enliven_detector
from retinue_export.catalogue.rows import Row
from retinue_export.errors import ExportError, ParityError
from retinue_export.packaging import Packaging
from retinue_export.parity import Outputs, Runner
from retinue_export.torchvision_detectors.detector import Detector

SEED = 0
BATCH_SIZES = parity.FEW_BATCH_SIZES
IMAGES = 5
"""How many photos are compared."""
_ENLIVENING = 16
"""How many photos weights are made live with."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds of the distance of two answers.

    Attributes:
        allowed: how far the graph's may be from PyTorch's.
        least_spread: how far apart PyTorch's own answers to any two images must be, so that the other means something.
    """

    allowed: float
    least_spread: float


LIMITS = {
    pb.TASK_CLASSIFY: Limits(1e-4, 0.01),
    pb.TASK_SEGMENT: Limits(1e-3, 0.1),
    pb.TASK_DETECT: Limits(parity.TOLERANCES["detections"], 0.5),
}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured of a row.

    Attributes:
        row: see there.
        parameters: how many weights the network has.
        spread: how far apart PyTorch's own answers to the two most similar images are, see `distance`.
        difference: how far the graph's answers are from PyTorch's, at most; or those of the network with its batch
            normalisation folded, which is what becomes the graph, from its own, where that is more.
        file_bytes: size of the graph, weights stored in 16 bits.
        export_seconds: from the network to the graph.
    """

    row: Row
    parameters: int
    spread: float
    difference: float
    file_bytes: int
    export_seconds: float


def live(row: Row) -> Candidate:
    """Builds a row's network, always with the same random, but live, weights."""
    torch.manual_seed(SEED)
    network = row.build().eval()
    candidate = row.candidate(network)
    _enliven(network, row, candidate.packaging, candidate.parity_images()[:_ENLIVENING])
    return candidate


def prove(row: Row) -> Proof:
    """Exports a live network with a dynamic batch, and compares it at batches 1, 2 and 5.

    A detector of torchvision's is compared with torchvision's own answers, its post-processing included.

    Raises:
        ExportError: PyTorch cannot export it, or answers all images too much alike for the comparison to mean anything.
        ParityError: the graph differs.
    """
    candidate = live(row)
    images = candidate.parity_images()

    start = time.monotonic()
    exported = assembly.export(candidate)
    seconds = time.monotonic() - start

    reference = candidate.packaging.reference(exported.shipped)
    some, limits = images[:IMAGES], LIMITS[row.task]
    spread = _spread(reference(some))
    if not spread >= limits.least_spread:
        raise ExportError(
            f"PyTorch's own answers to two images differ by {spread:.2g} only: too little to compare on."
        )
    runner = parity.runner(parity.session(exported.content), candidate.packaging.feeds)
    difference = float(np.max([_difference(reference, runner, some), _folding(candidate, exported, some)]))
    if not difference <= limits.allowed:
        raise ParityError(
            f"The graph differs from PyTorch by {difference:.2g}, more than the {limits.allowed:g} allowed."
        )
    return Proof(
        row=row,
        parameters=sum(parameter.numel() for parameter in candidate.network.parameters()),
        spread=spread,
        difference=difference,
        file_bytes=len(exported.content),
        export_seconds=seconds,
    )


def distance(first: Outputs, second: Outputs) -> float:
    """How far apart two answers are.

    Returns:
        The largest difference of a probability, not a number where an answer holds what is none; the part of the pixels
        that have another class; or the part of the detections that the other answer does not have, or of their masks or
        keypoints, whichever is largest.
    """
    if "boxes" in first:
        return max(agreement.parts_apart(first, second).values(), default=0.0)
    ((name, values),) = first.items()
    if name == "class_map":
        return float(np.mean(values != second[name]))
    return float(np.abs(values.astype(np.float64) - second[name].astype(np.float64)).max())


def _enliven(network: nn.Module, row: Row, packaging: Packaging, images: NDArray[np.uint8]) -> None:
    normalisation = packaging.normalisation
    normalise = graph.PixelsIn(nn.Identity(), normalisation.mean, normalisation.deviation)
    pixels = normalise(torch.from_numpy(images))
    if isinstance(network, Detector):
        enliven_detector(network, pixels)
    elif row.heads:
        enliven_heads(network, row.heads, partial(network, pixels, *packaging.further(images).values()))
    else:
        enliven(network, pixels)


def _spread(answers: Outputs) -> float:
    rows = [
        {name: values[number : number + 1] for name, values in answers.items()} for number in range(IMAGES)
    ]
    return min(distance(first, second) for first, second in combinations(rows, 2))


def _difference(reference: Runner, runner: Runner, images: NDArray[np.uint8]) -> float:
    distances = [
        distance(parity.answers(reference, images, size), parity.answers(runner, images, size))
        for size in BATCH_SIZES
    ]
    return float(np.max(distances))


def _folding(candidate: Candidate, exported: Exported, images: NDArray[np.uint8]) -> float:
    """How far folding batch normalisation has moved the answers, before any weight is rounded."""
    before, after = map(candidate.packaging.reference, (candidate.network, exported.original))
    return distance(before(images), after(images))
