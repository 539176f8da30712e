"""How far two detectors agree that need not keep the same one of two boxes of equal worth.

What suppression keeps depends on the order of scores, and where two scores are equal but for rounding, another box may
remain. So what is counted here is how many detections the other side has too, where `parity` measures distances.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb

from retinue_export import parity
from retinue_export.parity import Outputs, Runner

Values = NDArray[Any]


def _cells_apart(first: Values, second: Values) -> NDArray[np.bool_]:
    """Which cells of masks [n,m,m] differ by more than 0.01 in their probability, or are no number."""
    near: NDArray[np.bool_] = np.abs(first - second) <= 0.01
    return ~near


def _keypoints_apart(first: Values, second: Values) -> NDArray[np.bool_]:
    """Which keypoints [n,K,3] are more than half a pixel apart, differ by more than 0.01 in score, or are none."""
    near: NDArray[np.bool_] = np.all(np.abs(first - second) <= np.array([0.5, 0.5, 0.01]), axis=-1)
    return ~near


_APART: dict[str, Callable[[Values, Values], NDArray[np.bool_]]] = {
    "masks": _cells_apart,
    "keypoints": _keypoints_apart,
}


def parts_apart(expected: Outputs, actual: Outputs) -> dict[str, float]:
    """What part of two answers to the same images is not the same.

    Args:
        expected: `boxes`, `scores`, `classes` of N images, and `masks` or `keypoints` where there are such.
        actual: likewise.

    Returns:
        `detections`: see `parity.disagreement`. `masks` and `keypoints`: of the detections that both sides have, the
        part of the cells that differ by more than 0.01, and the part of the keypoints that are more than half a pixel
        apart or differ by more than 0.01 in their score. Without an entry for what neither side has.
    """
    if not (parity.finds(expected) or parity.finds(actual)):
        return {}
    parts = {"detections": parity.disagreement(expected, actual)}
    rows = [
        (parity.comparable(expected, row), parity.comparable(actual, row))
        for row in range(len(expected["scores"]))
    ]
    matched = [(first, second, *parity.counterparts(first, second)) for first, second in rows]
    for name, find_apart in _APART.items():
        if name in expected:
            apart = np.concatenate(
                [
                    find_apart(first[name][left], second[name][right]).ravel()
                    for first, second, left, right in matched
                ]
            )
            if apart.size:
                parts[name] = float(apart.mean())
    return parts


def compare(
    reference: Runner,
    candidate: Runner,
    images: NDArray[np.uint8],
    batch_sizes: Sequence[int] = parity.FEW_BATCH_SIZES,
    tolerances: Mapping[str, float] = parity.TOLERANCES,
) -> list[pb.OutputParity]:
    """Compares two runners on the same images, as `parity.compare` does.

    Returns:
        One entry for each of `parts_apart`, the largest and the mean over the batch sizes; none where nothing is found.
    """
    found: dict[str, list[float]] = {}
    for size in batch_sizes:
        expected, actual = (parity.answers(side, images, size) for side in (reference, candidate))
        for name, part in parts_apart(expected, actual).items():
            found.setdefault(name, []).append(part)
    return [
        pb.OutputParity(
            output=name,
            max_difference=float(np.max(parts)),
            mean_difference=float(np.mean(parts)),
            tolerance=tolerances[name],
        )
        for name, parts in found.items()
    ]
