"""The command line's options for a network's input."""

import math
from typing import Any

import pytest
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_export import input_options
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task
from retinue_export.nms import Suppression
from retinue_server.vision.spec import ResizeMode

DEFAULTS: dict[str, Any] = {
    "size": "224",
    "mean": "0.5,0.4,0.3",
    "std": "0.2,0.2,0.1",
    "grey": False,
    "resize": ResizeMode.STRETCH,
    "shorter_side": 0,
    "interpolation": Interpolation.BILINEAR,
    "pad_value": 0,
}


def test_one_number_is_a_square_and_two_are_height_and_width() -> None:
    square, _ = input_options.parse(**DEFAULTS)
    assert (square.height, square.width, square.channels) == (224, 224, 3)
    wide, _ = input_options.parse(**DEFAULTS | {"size": "240x320"})
    assert (wide.height, wide.width) == (240, 320)


def test_all_options_reach_the_input() -> None:
    spec, normalisation = input_options.parse(
        size="28",
        mean="0.25",
        std="0.5",
        grey=True,
        resize=ResizeMode.SHORTER_SIDE_CENTER_CROP,
        shorter_side=32,
        interpolation=Interpolation.NEAREST,
        pad_value=0,
    )
    assert (spec.grey, spec.channels, spec.shorter_side) == (True, 1, 32)
    assert spec.resample is Image.Resampling.NEAREST
    assert (normalisation.mean, normalisation.deviation) == ((0.25,), (0.5,))
    padded, _ = input_options.parse(**DEFAULTS | {"resize": ResizeMode.LETTERBOX, "pad_value": 7})
    assert padded.pad_value == 7


@pytest.mark.parametrize(
    ("mean", "std"), [("0", "1"), ("123.675", "58.395"), ("-1", "1e-6"), ("0.5", "0.00392")]
)
def test_unusual_levels_are_taken(mean: str, std: str) -> None:
    _, normalisation = input_options.parse(**DEFAULTS | {"mean": mean, "std": std, "grey": True})
    assert normalisation.mean == (float(mean),)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("size", "big", "--size big"),
        ("size", "0", "--size 0"),
        ("size", "99999", "up to 8192"),
        ("size", "10x", "--size 10x"),
        ("size", "٢٨", "is no size"),
        ("mean", "0.5", "3 numbers"),
        ("mean", "a,b,c", "--mean a,b,c"),
        ("mean", "nan,0,0", "--mean nan"),
        ("mean", "1e30,0,0", "With --mean 1e30,0,0"),
        ("mean", "1e300,0,0", "With --mean 1e300,0,0"),
        ("std", "0,1,1", "greater than 0"),
        ("std", "1e-320,1,1", "--std 1e-320,1,1"),
        ("std", "1e-39,1,1", "--std 1e-39,1,1"),
        ("std", "1e300,1,1", "--std 1e300,1,1"),
        ("std", "1,1,1,1", "3 numbers"),
        ("resize", ResizeMode.SHORTER_SIDE_CENTER_CROP, "--shorter-side of 224"),
        ("shorter_side", 256, "no meaning with --resize stretch"),
        ("pad_value", 7, "no meaning with --resize stretch"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(option: str, value: object, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        input_options.parse(**DEFAULTS | {option: value})


NOT_GIVEN: dict[str, Any] = dict.fromkeys(
    ("max_detections", "min_score", "iou_threshold", "score_threshold", "regions")
)


def test_a_detectors_options_have_defaults() -> None:
    answer = input_options.parse_answer(Task.DETECT, **NOT_GIVEN)
    assert (answer.task, answer.regions, answer.score_threshold) == (pb.TASK_DETECT, 0, 0.5)
    assert answer.suppression == Suppression()


def test_a_score_that_the_graph_drops_is_not_returned_by_default() -> None:
    answer = input_options.parse_answer(Task.DETECT, **NOT_GIVEN | {"min_score": 0.7})
    assert answer.score_threshold == 0.7


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (Task.CLASSIFY, {"regions": 5}, "--regions has no meaning with --task classify"),
        (Task.SEGMENT, {"min_score": 0.0}, "--min-score has no meaning with --task segment"),
        (Task.DETECT, {"max_detections": 0}, "--max-detections 0 must be 1 to"),
        (Task.DETECT, {"max_detections": 10_001}, "--max-detections 10001 must be 1 to 10000"),
        (Task.DETECT, {"regions": 4097}, "--regions 4097 must be 1 to 4096"),
        (Task.DETECT, {"iou_threshold": 1.5}, "--iou-threshold 1.5 must be 0 to 1"),
        (Task.DETECT, {"min_score": math.nan}, "--min-score nan must be 0 to 1"),
        (Task.DETECT, {"min_score": 1.0}, "--min-score 1 leaves no detection"),
        (Task.DETECT, {"score_threshold": 0.01}, "--score-threshold 0.01 is below --min-score 0.05"),
    ],
)
def test_an_option_of_detectors_that_makes_no_sense_is_refused_by_name(
    task: Task, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        input_options.parse_answer(task, **NOT_GIVEN | options)
