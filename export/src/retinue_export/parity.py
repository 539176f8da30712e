"""The parity certificate: what differs between the PyTorch reference and the ONNX graph, measured on real images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torchvision.ops import box_iou

from retinue_export.errors import ParityError
from retinue_export.inputs import batches

Outputs = dict[str, NDArray[np.generic]]
Detections = dict[str, NDArray[Any]]
"""Of one image: `boxes` [n,4], `scores` [n], `classes` [n] and what else a graph says of each."""
Runner = Callable[[NDArray[np.uint8]], Outputs]
"""Maps uint8 [N,H,W,C] to the graph's outputs by name."""
Feeds = Callable[[NDArray[np.uint8]], Outputs]
"""Maps uint8 [N,H,W,C] to what the graph takes beside it, by name."""
Compare = Callable[
    [Runner, Runner, NDArray[np.uint8], Sequence[int], Mapping[str, float]], list[pb.OutputParity]
]
"""Compares two runners on the same images, as `compare` does."""
BATCH_SIZES = (1, 2, 7, 32)
FEW_BATCH_SIZES = (1, 2, 5)
"""For networks that take their time over each image."""
TOLERANCES: Mapping[str, float] = {
    "probabilities": 1e-4,
    "heatmap": 1e-2,
    "scores": 1e-4,
    "boxes": 1e-2,
    "classes": 0.0,
    "class_map": 1e-3,
    "detections": 0.01,
    "masks": 0.01,
    "keypoints": 0.01,
}


@dataclass(slots=True)
class _Difference:
    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, differences: NDArray[np.float64]) -> None:
        if differences.size:
            # NumPy's maximum, unlike Python's max, keeps what is not a number.
            self.largest = float(np.maximum(self.largest, differences.max()))
            self.total += float(differences.sum())
            self.count += differences.size


def session(model: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Opens a graph on the CPU; `threads` 0 means one a core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runner(opened: onnxruntime.InferenceSession, feeds: Feeds = lambda _images: {}) -> Runner:
    """Wraps a session.

    Args:
        opened: see `session`.
        feeds: what a graph of this kind may take beside images; what this one does not take is left out.
    """
    names = [output.name for output in opened.get_outputs()]
    taken = {value.name for value in opened.get_inputs()}

    def run(images: NDArray[np.uint8]) -> Outputs:
        fed = {"images": images, **feeds(images)}
        return dict(
            zip(
                names,
                opened.run(names, {name: value for name, value in fed.items() if name in taken}),
                strict=True,
            )
        )

    return run


def compare(
    reference: Runner,
    candidate: Runner,
    images: NDArray[np.uint8],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerances: Mapping[str, float] = TOLERANCES,
) -> list[pb.OutputParity]:
    """Compares two runners on the same images.

    Args:
        reference: what is right; runs on the same batches.
        candidate: what is compared.
        images: uint8 [N,H,W,C].
        batch_sizes: sizes to run both at.
        tolerances: of each output.

    Returns:
        One entry for each output of which something was compared, of all images at all sizes. `probabilities`,
        `scores` and `heatmap` differ by their own values, `boxes` by pixels of the input; a class map by the share of
        its pixels that have another class. `classes` are 1 for each detection of another class, or that only one side
        has. A detector has no entry where neither side finds anything.
    """
    differences: dict[str, _Difference] = {}
    for size in batch_sizes:
        for batch in batches(images, size):
            for name, values in _differences(reference(batch), candidate(batch)).items():
                differences.setdefault(name, _Difference()).add(values)
    return [
        pb.OutputParity(
            output=name,
            max_difference=difference.largest,
            mean_difference=difference.total / difference.count,
            tolerance=tolerances[name],
        )
        for name, difference in differences.items()
        if difference.count
    ]


def answers(runner: Runner, images: NDArray[np.uint8], size: int) -> Outputs:
    """Runs all images, uint8 [N,H,W,C], in batches of one size."""
    parts = [runner(batch) for batch in batches(images, size)]
    return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}


def disagreement(
    expected: Outputs,
    actual: Outputs,
    least_score: float = 0.05,
    overlap: float = 0.99,
    score_distance: float = 1e-3,
) -> float:
    """The part of the detections that the other side does not have: none of the same class that is alike enough.

    Args:
        expected: `boxes`, `scores` and `classes` of N images, as a bundle gives them.
        actual: likewise.
        least_score: detections of lower score are not counted.
        overlap: the intersection over union must be higher than this.
        score_distance: scores may be this far apart.

    Returns:
        In [0, 1], counted over both sides; 0 where neither has any.
    """
    alone = total = 0
    for row in range(len(expected["scores"])):
        first, second = comparable(expected, row, least_score), comparable(actual, row, least_score)
        matched = len(counterparts(first, second, overlap, score_distance)[0])
        alone += len(first["scores"]) + len(second["scores"]) - 2 * matched
        total += len(first["scores"]) + len(second["scores"])
    return alone / max(1, total)


def finds(outputs: Outputs, least_score: float = 0.05) -> bool:
    """Whether there is a detection in any image whose score is high enough."""
    return bool(_counted(outputs["scores"], least_score).any())


def comparable(outputs: Outputs, row: int, least_score: float = 0.05) -> Detections:
    """The detections of one image whose score is high enough."""
    chosen = _counted(outputs["scores"][row], least_score)
    return {name: values[row][chosen] for name, values in outputs.items()}


def counterparts(
    first: Detections, second: Detections, overlap: float = 0.99, score_distance: float = 1e-3
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which detections of an image are the same on both sides, as `disagreement` says; each is that of one other only.

    Returns:
        Their rows in `first`, and in `second`.
    """
    overlaps = box_iou(torch.from_numpy(first["boxes"]), torch.from_numpy(second["boxes"])).numpy()
    same = (
        (overlaps > overlap)
        & (np.abs(first["scores"][:, np.newaxis] - second["scores"]) <= score_distance)
        & (first["classes"][:, np.newaxis] == second["classes"])
    )
    left, right = linear_sum_assignment(~same)
    matched = same[left, right]
    return left[matched], right[matched]


def check(outputs: Iterable[pb.OutputParity], other_side: str = "PyTorch") -> None:
    """Holds differences against their tolerances.

    Args:
        outputs: what `compare` gives.
        other_side: what was compared with, for the message.

    Raises:
        ParityError: an output differs by more, or by something that is not a number.
    """
    for entry in outputs:
        if not entry.max_difference <= entry.tolerance:
            raise ParityError(
                f"Output `{entry.output}` differs from {other_side} by up to {entry.max_difference:.3g}, "
                f"more than the {entry.tolerance:.3g} allowed."
            )


def engines() -> str:
    """Names both sides of the comparison with their versions."""
    return f"torch {version('torch')}, onnxruntime {onnxruntime.__version__}, CPUExecutionProvider"


def _counted(scores: NDArray[Any], least_score: float) -> NDArray[np.bool_]:
    """Which scores are those of detections that are compared; one that is no number always is, so that it shows."""
    left_out: NDArray[np.bool_] = (scores <= 0) | (scores < least_score)
    return ~left_out


def _differences(expected: Outputs, actual: Outputs) -> dict[str, NDArray[np.float64]]:
    if "class_map" in expected:
        unequal = expected["class_map"] != actual["class_map"]
        return {"class_map": unequal.mean(axis=(1, 2))}
    if "boxes" in expected:
        return _detection_differences(expected, actual)
    differences = {
        name: np.abs(values.astype(np.float64) - actual[name].astype(np.float64))
        for name, values in expected.items()
    }
    if "heatmap" in differences:
        # Where the two best classes are equal but for rounding, each side may show another one.
        best, actual_best = (side["probabilities"].argmax(axis=1) for side in (expected, actual))
        differences["heatmap"] = differences["heatmap"][best == actual_best]
    return differences


def _detection_differences(expected: Outputs, actual: Outputs) -> dict[str, NDArray[np.float64]]:
    """Differences of detections matched one to one, since two of nearly equal score may change places.

    A detection that only one side has counts with its score, and as one wrong class.
    """
    boxes, scores, classes = [], [], []
    for row in range(len(expected["scores"])):
        first, second = (comparable(side, row, least_score=0) for side in (expected, actual))
        cost = np.abs(first["scores"][:, np.newaxis].astype(np.float64) - second["scores"])
        cost = cost + np.abs(first["boxes"][:, np.newaxis].astype(np.float64) - second["boxes"]).max(axis=2)
        cost = cost + 1e3 * (first["classes"][:, np.newaxis] != second["classes"])
        # What is no number has to be matched too, so that it shows in the differences.
        left, right = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9))
        boxes.append(np.abs(first["boxes"][left].astype(np.float64) - second["boxes"][right]).ravel())
        scores.append(np.abs(first["scores"][left].astype(np.float64) - second["scores"][right]))
        classes.append((first["classes"][left] != second["classes"][right]).astype(np.float64))
        for side, matched in ((first, left), (second, right)):
            alone = np.delete(side["scores"], matched).astype(np.float64)
            scores.append(alone)
            classes.append(np.ones(len(alone)))
    return {
        "boxes": np.concatenate(boxes),
        "scores": np.concatenate(scores),
        "classes": np.concatenate(classes),
    }
