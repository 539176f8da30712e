"""What counts as the same detection, mask and keypoint."""

import numpy as np
import pytest
from numpy.typing import NDArray

from retinue_export import agreement, parity
from retinue_export.parity import Outputs

ROWS = 4


def found(count: int = 2, images: int = 3) -> Outputs:
    """`count` detections an image, none of which is another's counterpart, with masks and keypoints."""
    random = np.random.default_rng(0)
    corners = np.arange(images * ROWS, dtype=np.float32).reshape(images, ROWS, 1) * 100
    outputs: Outputs = {
        "boxes": np.concatenate([corners, corners, corners + 50, corners + 80], axis=2),
        "scores": np.linspace(0.9, 0.2, ROWS, dtype=np.float32) * np.ones((images, 1), np.float32),
        "classes": np.ones((images, ROWS), np.int32),
        "masks": random.random((images, ROWS, 5, 5), np.float32) * 0.9,
        "keypoints": random.random((images, ROWS, 7, 3), np.float32) * 50,
    }
    outputs["scores"][:, count:] = 0
    return outputs


def changed(name: str, by: float | list[float], rows: slice = slice(None)) -> Outputs:
    other = found()
    values: NDArray[np.float32] = other[name]  # type: ignore[assignment]
    values[:, rows] += np.array(by, np.float32)
    return other


def test_the_same_answers_are_not_apart() -> None:
    assert agreement.parts_apart(found(), found()) == {"detections": 0, "masks": 0, "keypoints": 0}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (changed("scores", 0.01, slice(0, 1)), {"detections": 0.5, "masks": 0, "keypoints": 0}),
        (changed("masks", 0.02, slice(0, 1)), {"detections": 0, "masks": 0.5, "keypoints": 0}),
        (changed("masks", 0.005), {"detections": 0, "masks": 0, "keypoints": 0}),
        (changed("keypoints", [0.6, 0, 0], slice(0, 1)), {"detections": 0, "masks": 0, "keypoints": 0.5}),
        (changed("keypoints", [0, 0, 0.02]), {"detections": 0, "masks": 0, "keypoints": 1}),
        (changed("keypoints", [0.4, -0.4, 0.005]), {"detections": 0, "masks": 0, "keypoints": 0}),
    ],
)
def test_what_is_apart_is_counted(other: Outputs, expected: dict[str, float]) -> None:
    assert agreement.parts_apart(found(), other) == pytest.approx(expected)


def test_masks_are_compared_with_those_of_their_counterparts() -> None:
    other = {name: values[:, [1, 0, 2, 3]] for name, values in found().items()}
    assert agreement.parts_apart(found(), other) == {"detections": 0, "masks": 0, "keypoints": 0}


def test_where_nothing_is_found_nothing_is_compared() -> None:
    assert agreement.parts_apart(found(0), found(0)) == {}
    assert (
        agreement.compare(lambda _: found(0), lambda _: found(0), np.zeros((3, 1, 1, 3), np.uint8), (3,))
        == []
    )
    assert agreement.parts_apart(found(2), found(0))["detections"] == 1


def test_a_score_that_is_no_number_never_passes() -> None:
    broken = changed("scores", np.nan)
    assert agreement.parts_apart(broken, broken)["detections"] == 1
    assert agreement.parts_apart(found(0), broken)["detections"] == 1


def test_the_worst_batch_size_decides() -> None:
    images = np.zeros((6, 1, 1, 3), np.uint8)

    def wrong_in_threes(batch: NDArray[np.uint8]) -> Outputs:
        return changed("scores", 0.01) if len(batch) == 3 else found(images=len(batch))

    entries = agreement.compare(lambda batch: found(images=len(batch)), wrong_in_threes, images, (1, 3))
    (detections,) = (entry for entry in entries if entry.output == "detections")
    assert detections.max_difference == 1
    assert detections.mean_difference == 0.5
    assert detections.tolerance == parity.TOLERANCES["detections"]
