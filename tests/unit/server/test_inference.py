"""What a request of the Open Inference Protocol becomes for the engine, and what its answers become for the caller."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.server.refusals import refusal
from tests.unit.server.tensor_requests import (
    ENCODED,
    HEIGHT,
    IMAGES,
    MOST_IMAGES,
    PIXELS,
    WIDTH,
    classifier,
    detector,
    outcome,
)

from retinue_server import inference
from retinue_server.catalog import ServedModel
from retinue_server.inference import Declared, Wanted
from retinue_server.interface import Interface, takes
from retinue_server.tensors import BYTES, TensorSpec, size_of, to_bytes

# Inputs


def check(*declared: Declared, model: ServedModel | None = None) -> int:
    return inference.check_inputs(model or classifier(), declared, MOST_IMAGES)


@pytest.mark.parametrize(
    "declared",
    [
        Declared("images", "UINT8", (2, *PIXELS)),
        Declared("images", BYTES, (2,)),
        Declared("images", BYTES, (2, 1)),
    ],
)
def test_images_are_pixels_or_encoded(declared: Declared) -> None:
    assert check(declared) == 2


@pytest.mark.parametrize("count", [1, MOST_IMAGES])
def test_from_one_image_to_as_many_as_are_taken_are(count: int) -> None:
    assert check(Declared("images", BYTES, (count,))) == count


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        ("FP32", (2, *PIXELS)),
        ("INT8", (2, *PIXELS)),
        ("BOOL", (2, *PIXELS)),
        ("UINT8", PIXELS),
        ("UINT8", (2, 3, HEIGHT, WIDTH)),
        ("UINT8", (2, WIDTH, HEIGHT, 3)),
        ("UINT8", (2, HEIGHT, WIDTH, 4)),
        ("UINT8", (2, *PIXELS, 1)),
        ("UINT8", (2**40, 2**40, 3)),
        ("UINT8", ()),
        ("UINT8", (2,)),
        (BYTES, ()),
        (BYTES, (2, 2)),
        (BYTES, (2, 1, 1)),
        (BYTES, (2, *PIXELS)),
    ],
)
def test_an_input_of_another_type_or_shape_is_refused(datatype: str, shape: tuple[int, ...]) -> None:
    message = refusal("INPUT_MISMATCH", lambda: check(Declared("images", datatype, shape)))
    assert f"input 'images' is {datatype[:32]} {list(shape)}" in message
    assert "takes UINT8 [-1, 32, 64, 3], or BYTES [-1] of encoded images" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("datatype", "shape", "reason"),
    [
        ("BF16", (2, *PIXELS), "DATATYPE_UNKNOWN"),
        ("", (2, *PIXELS), "DATATYPE_UNKNOWN"),
        ("x" * 10_000, (2, *PIXELS), "DATATYPE_UNKNOWN"),
        ("UINT8", (2, -1, -1, 3), "SHAPE_INVALID"),
        ("UINT8", (-5, *PIXELS), "SHAPE_INVALID"),
        (BYTES, (-1,), "SHAPE_INVALID"),
        ("UINT8", (1,) * 40, "SHAPE_INVALID"),
        ("UINT8", (2**62,) * 100, "SHAPE_INVALID"),
        ("UINT8", (1,) * 100_000, "SHAPE_INVALID"),
    ],
)
def test_what_is_no_type_or_shape_at_all_is_refused(
    datatype: str, shape: tuple[int, ...], reason: str
) -> None:
    message = refusal(reason, lambda: check(Declared("images", datatype, shape)))
    assert len(message) < 1500


def test_classes_take_no_more_than_was_counted() -> None:
    spec = TensorSpec("class_map", "UINT8", (-1, 100, 100))
    model = replace(classifier(), interface=Interface({}, {"class_map": spec}))
    wanted = inference.check_outputs(model, [Wanted("class_map", 1000)])
    promised = inference.output_bytes(model, wanted, 1, 2**31)
    found = inference.outputs(model, [outcome(class_map=np.zeros((100, 100), np.uint8))], wanted)
    assert len(to_bytes(found["class_map"])) <= promised
    assert size_of(found["class_map"]) == len(to_bytes(found["class_map"]))


def test_more_classes_than_a_reply_should_name_are_refused() -> None:
    wanted = [Wanted("probabilities", 1001)]
    refusal("CLASSIFICATION_INVALID", lambda: inference.check_outputs(classifier(), wanted))


@pytest.mark.parametrize("name", ["", "image", "Images", "score_threshold", "probabilities", "n" * 10_000])
def test_an_unknown_input_is_refused_with_the_known_ones(name: str) -> None:
    message = refusal("INPUT_UNKNOWN", lambda: check(IMAGES, Declared(name, "UINT8", (2,))))
    assert f"has no input '{name[:128]}'; it takes 'images' UINT8 [-1, 32, 64, 3]." in message
    assert len(message) < 400


def test_an_input_twice_is_refused() -> None:
    refusal("INPUT_TWICE", lambda: check(IMAGES, IMAGES))
    refusal("INPUT_TWICE", lambda: check(IMAGES, ENCODED))
    threshold = Declared("score_threshold", "FP32", (2, 1))
    refusal("INPUT_TWICE", lambda: check(IMAGES, threshold, threshold, model=detector()))


def test_a_missing_input_is_refused_with_what_it_is() -> None:
    message = refusal("INPUT_MISSING", check)
    assert "input 'images', UINT8 [-1, 32, 64, 3], is missing" in message
    threshold = Declared("score_threshold", "FP32", (2, 1))
    message = refusal("INPUT_MISSING", lambda: check(threshold, model=detector()))
    assert "'score_threshold' FP32 [-1, 1] (optional)" in message
    message = refusal("INPUT_MISSING", lambda: check(IMAGES, model=detector(max_regions=5)))
    assert "input 'regions', FP32 [-1, 5, 4], is missing" in message


def test_no_images_are_refused() -> None:
    refusal("NO_IMAGES", lambda: check(Declared("images", "UINT8", (0, *PIXELS))))
    refusal("NO_IMAGES", lambda: check(Declared("images", BYTES, (0, 1))))


@pytest.mark.parametrize("count", [MOST_IMAGES + 1, 2**40, 2**63 - 1])
def test_more_images_than_are_taken_are_refused(count: int) -> None:
    for declared in (Declared("images", "UINT8", (count, *PIXELS)), Declared("images", BYTES, (count,))):
        message = refusal("TOO_MANY_IMAGES", lambda declared=declared: check(declared))  # type: ignore[misc]
        assert f"at most {MOST_IMAGES} are taken; split it into several" in message


def test_inputs_of_different_counts_are_refused() -> None:
    threshold = Declared("score_threshold", "FP32", (3, 1))
    message = refusal("INPUT_MISMATCH", lambda: check(IMAGES, threshold, model=detector()))
    assert "the inputs have 2, 3 rows; give all as many" in message


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_threshold_is_one_value_an_image(shape: tuple[int, ...]) -> None:
    assert check(IMAGES, Declared("iou_threshold", "FP32", shape), model=detector()) == 2


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [("FP32", ()), ("FP32", (2, 2)), ("FP32", (2, 1, 1)), ("FP64", (2, 1)), ("UINT8", (2, 1)), (BYTES, (2,))],
)
def test_a_threshold_of_another_type_or_shape_is_refused(datatype: str, shape: tuple[int, ...]) -> None:
    threshold = Declared("score_threshold", datatype, shape)
    message = refusal("INPUT_MISMATCH", lambda: check(IMAGES, threshold, model=detector()))
    assert "encoded images" not in message


def test_what_must_be_there_is_not_one_value_an_image() -> None:
    assert not takes(TensorSpec("x", "FP32", (-1, 1)), "FP32", (2,))
    assert takes(TensorSpec("x", "FP32", (-1, 1), optional=True), "FP32", (2,))
    assert takes(TensorSpec("x", "FP32", (-1, -1, 3)), "FP32", (2, 7, 3))
    assert not takes(TensorSpec("x", BYTES, (-1, 2)), BYTES, (2,))


def test_the_tensors_of_a_bundle_are_what_its_manifest_says() -> None:
    assert list(classifier().interface.inputs) == ["images"]
    assert classifier().interface.extra_outputs == {"heatmap"}
    interface = detector(max_regions=5).interface
    assert {name: str(spec) for name, spec in interface.inputs.items()} == {
        "images": "UINT8 [-1, 32, 64, 3]",
        "score_threshold": "FP32 [-1, 1]",
        "iou_threshold": "FP32 [-1, 1]",
        "regions": "FP32 [-1, 5, 4]",
    }
    assert {name: str(spec) for name, spec in interface.outputs.items()} == {
        "boxes": "FP32 [-1, 10, 4]",
        "scores": "FP32 [-1, 10]",
    }
    assert [spec.name for spec in interface.inputs.values() if spec.optional] == [
        "score_threshold",
        "iou_threshold",
    ]


# Outputs


def test_no_outputs_means_all_that_are_computed_anyway() -> None:
    assert inference.check_outputs(classifier(), []) == [Wanted("probabilities")]


def test_outputs_come_in_the_order_in_which_they_are_asked_for() -> None:
    wanted = [Wanted("heatmap"), Wanted("probabilities", 1)]
    assert inference.check_outputs(classifier(), wanted) == wanted


@pytest.mark.parametrize("name", ["", "images", "Heatmap", "n" * 10_000])
def test_an_unknown_output_is_refused_with_the_known_ones(name: str) -> None:
    message = refusal("OUTPUT_UNKNOWN", lambda: inference.check_outputs(classifier(), [Wanted(name)]))
    assert f"has no output '{name[:128]}'; it gives 'probabilities' FP32 [-1, 2]" in message
    assert len(message) < 400


def test_an_output_twice_is_refused() -> None:
    wanted = [Wanted("heatmap"), Wanted("heatmap", 1)]
    refusal("OUTPUT_TWICE", lambda: inference.check_outputs(classifier(), wanted))


@pytest.mark.parametrize("datatype", [BYTES, "BOOL"])
def test_classes_are_only_named_of_numbers(datatype: str) -> None:
    interface = Interface({}, {"words": TensorSpec("words", datatype, (-1, 4))})
    model = replace(classifier(), interface=interface)
    refusal("CLASSIFICATION_INVALID", lambda: inference.check_outputs(model, [Wanted("words", 1)]))
    assert inference.check_outputs(model, [Wanted("words")]) == [Wanted("words")]


def test_less_than_no_classes_are_refused() -> None:
    refusal(
        "CLASSIFICATION_INVALID", lambda: inference.check_outputs(classifier(), [Wanted("probabilities", -1)])
    )


def test_the_bytes_of_outputs_are_those_of_their_rows() -> None:
    wanted = [Wanted("boxes"), Wanted("scores")]
    assert inference.output_bytes(detector(), wanted, 2, 400) == 400
    message = refusal("REPLY_TOO_LARGE", lambda: inference.output_bytes(detector(), wanted, 2, 399))
    assert "would take 400 bytes, more than 399; send fewer images, or ask for fewer outputs" in message
    assert inference.output_bytes(detector(), wanted[1:], 2, 399) == 80
