"""The comparison that certificates rest on: it must find what differs, and nothing else."""

import numpy as np
import pytest
from retinue.v1 import manifest_pb2 as pb

from retinue_export import inputs, parity
from retinue_export.errors import ParityError
from retinue_export.parity import Outputs, Runner

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)


def probabilities(images: np.ndarray) -> Outputs:
    return {"probabilities": np.repeat(images.reshape(-1, 1) / 100, 3, axis=1).astype(np.float32)}


def detections(images: np.ndarray) -> Outputs:
    """Two detections of nearly equal score in each image, and a row of padding."""
    count = len(images)
    return {
        "boxes": np.tile(np.array([[1, 1, 5, 5], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32), (count, 1, 1)),
        "scores": np.tile(np.array([0.8, 0.79999995, 0], np.float32), (count, 1)),
        "classes": np.tile(np.array([3, 4, 0], np.int32), (count, 1)),
    }


def by_output(reference: Runner, candidate: Runner) -> dict[str, pb.OutputParity]:
    return {entry.output: entry for entry in parity.compare(reference, candidate, IMAGES, batch_sizes=(1, 4))}


def test_equal_runners_differ_by_nothing() -> None:
    entry = by_output(probabilities, probabilities)["probabilities"]
    assert entry.max_difference == entry.mean_difference == 0
    assert entry.tolerance == pytest.approx(1e-4)


def test_one_differing_value_in_one_image_is_found() -> None:
    def off(images: np.ndarray) -> Outputs:
        answer = probabilities(images)
        answer["probabilities"][images.ravel() == 7, 2] += 0.25
        return answer

    outputs = parity.compare(probabilities, off, IMAGES, batch_sizes=(1, 4))
    assert outputs[0].max_difference == pytest.approx(0.25)
    with pytest.raises(ParityError, match="probabilities"):
        parity.check(outputs)


def test_a_difference_at_one_batch_size_only_is_found() -> None:
    def off(images: np.ndarray) -> Outputs:
        answer = probabilities(images)
        return {"probabilities": answer["probabilities"] + (0.5 if len(images) == 4 else 0)}

    assert by_output(probabilities, off)["probabilities"].max_difference == pytest.approx(0.5)


def test_a_value_that_is_no_number_never_passes() -> None:
    with pytest.raises(ParityError):
        parity.check([pb.OutputParity(output="probabilities", max_difference=float("nan"), tolerance=1e-4)])


def test_not_a_number_in_an_answer_is_not_hidden_by_others() -> None:
    def broken(images: np.ndarray) -> Outputs:
        answer = probabilities(images)
        answer["probabilities"][images.ravel() == 3] = np.nan
        return answer

    with pytest.raises(ParityError):
        parity.check(parity.compare(probabilities, broken, IMAGES, batch_sizes=(1, 4)))


def test_detections_of_nearly_equal_score_may_change_places() -> None:
    def swapped(images: np.ndarray) -> Outputs:
        return {name: values[:, [1, 0, 2]] for name, values in detections(images).items()}

    outputs = by_output(detections, swapped)
    assert outputs["boxes"].max_difference == 0
    assert outputs["classes"].max_difference == 0
    parity.check(outputs.values())


@pytest.mark.parametrize(("output", "row"), [("boxes", 1), ("classes", 0)])
def test_a_moved_box_and_a_wrong_class_are_found(output: str, row: int) -> None:
    def off(images: np.ndarray) -> Outputs:
        answer = detections(images)
        answer[output][:, row] += 1
        return answer

    with pytest.raises(ParityError, match=output):
        parity.check(by_output(detections, off).values())


def test_a_missing_detection_is_found() -> None:
    def off(images: np.ndarray) -> Outputs:
        answer = detections(images)
        answer["scores"][:, 1] = 0
        return answer

    outputs = by_output(detections, off)
    assert outputs["scores"].max_difference == pytest.approx(0.8)
    assert outputs["classes"].max_difference == 1


def scored(score: float) -> Runner:
    """Finds the same as `detections`, the second with another score."""

    def run(images: np.ndarray) -> Outputs:
        answer = detections(images)
        answer["scores"][:, 1] = score
        return answer

    return run


def nothing(images: np.ndarray) -> Outputs:
    return {name: np.zeros_like(values) for name, values in detections(images).items()}


@pytest.mark.parametrize("reference", [nothing, detections, scored(np.nan)])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_score_that_is_no_number_never_passes(reference: Runner, swapped: bool) -> None:
    sides = (scored(np.nan), reference) if swapped else (reference, scored(np.nan))
    outputs = by_output(*sides)
    assert np.isnan(outputs["scores"].max_difference)
    with pytest.raises(ParityError, match="`scores` differs from PyTorch by up to nan"):
        parity.check([outputs["scores"]])


def test_a_score_that_is_no_number_has_no_counterpart() -> None:
    broken = one_detection(score=np.nan)
    assert parity.finds(broken)
    assert parity.disagreement(broken, broken) == 1


def test_where_neither_side_finds_anything_nothing_is_claimed() -> None:
    assert by_output(nothing, nothing) == {}


def test_where_one_side_finds_nothing_there_are_no_boxes_to_compare() -> None:
    outputs = by_output(detections, nothing)
    assert outputs.keys() == {"scores", "classes"}
    assert outputs["scores"].max_difference == pytest.approx(0.8)


def test_class_maps_differ_by_the_share_of_pixels_of_the_worst_image() -> None:
    def zeros(images: np.ndarray) -> Outputs:
        return {"class_map": np.zeros((len(images), 4, 5), np.uint8)}

    def one_pixel(images: np.ndarray) -> Outputs:
        answer = zeros(images)
        answer["class_map"][images.ravel() == 2, 0, 0] = 1
        return answer

    assert by_output(zeros, one_pixel)["class_map"].max_difference == pytest.approx(1 / 20)


def test_batches_cover_every_image_and_fill_up_the_last_from_the_front() -> None:
    cut = [batch.ravel().tolist() for batch in inputs.batches(IMAGES, 4)]
    assert cut == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_answers_are_those_of_all_images_in_order_whatever_the_batch() -> None:
    for size in (1, 4, 10, 32):
        assert np.array_equal(
            parity.answers(probabilities, IMAGES, size)["probabilities"],
            probabilities(IMAGES)["probabilities"],
        )


def one_detection(box: tuple[float, ...] = (10, 10, 60, 60), score: float = 0.5, kind: int = 3) -> Outputs:
    return {
        "boxes": np.array([[box, (0, 0, 0, 0)]], np.float32),
        "scores": np.array([[score, 0]], np.float32),
        "classes": np.array([[kind, 0]], np.int32),
    }


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        (one_detection(), 0),
        (one_detection(box=(10, 10, 60.2, 60)), 0),
        (one_detection(score=0.5009), 0),
        (one_detection(box=(10, 10, 61, 60)), 1),
        (one_detection(score=0.502), 1),
        (one_detection(kind=4), 1),
        (one_detection(score=0.04), 1),
    ],
)
def test_a_detection_has_a_counterpart_or_it_has_none(other: Outputs, apart: float) -> None:
    assert parity.disagreement(one_detection(), other) == apart
    assert parity.disagreement(other, one_detection()) == apart


def test_a_detection_is_the_counterpart_of_one_other_only() -> None:
    twice = one_detection()
    for values in twice.values():
        values[:, 1] = values[:, 0]
    assert parity.disagreement(one_detection(), twice) == pytest.approx(1 / 3)


def test_rows_without_a_detection_are_not_compared_however_low_the_score_that_counts() -> None:
    assert parity.disagreement(one_detection(), one_detection(), least_score=0) == 0


def test_what_scores_next_to_nothing_is_not_compared() -> None:
    assert parity.disagreement(one_detection(score=0.01), one_detection(score=0.02, kind=7)) == 0
