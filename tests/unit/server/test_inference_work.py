"""What a request of tensors has the engine do, and what becomes of its answers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.pictures import RED, encode, png, solid
from tests.unit.server.refusals import refusal
from tests.unit.server.tensor_requests import (
    HEIGHT,
    LIMITS,
    MOST_IMAGES,
    WIDTH,
    classifier,
    detector,
    floats,
    objects,
    outcome,
    pixels,
)

from retinue_server import inference
from retinue_server.batching.tickets import Outcome
from retinue_server.catalog import ServedModel
from retinue_server.errors import EngineError, ImageError
from retinue_server.inference import Declared, Wanted
from retinue_server.interface import Interface, takes
from retinue_server.results import Answer, Task, TensorOptions, TensorWork
from retinue_server.rpc.inference_replies import infer_response
from retinue_server.tensors import BYTES, DTYPES, Array, TensorSpec, from_bytes
from retinue_server.vision.readers import InputPixels

# Work


def work(model: ServedModel | None = None, wanted: Sequence[Wanted] = (), **inputs: Array) -> list[Any]:
    return inference.works(model or detector(), inputs, wanted, LIMITS)


def thresholds(made: list[Any]) -> list[tuple[float, float]]:
    return [(one.options.score_threshold, one.options.iou_threshold) for one in made]


def test_pixels_are_given_on_as_they_are() -> None:
    images = pixels(3)
    made = work(images=images)
    for one, image in zip(made, images, strict=True):
        assert isinstance(one.image, InputPixels)
        assert np.shares_memory(one.image.pixels, image)
        assert one.image.size == (WIDTH, HEIGHT)
        assert one.regions is None


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_encoded_images_are_opened_by_their_own_size(shape: tuple[int, ...]) -> None:
    images = objects(png(RED, 20, 10), encode(solid(RED, 8, 16), "JPEG")).reshape(shape)
    assert [one.image.size for one in work(images=images)] == [(20, 10), (8, 16)]


@pytest.mark.parametrize(
    ("image", "reason"),
    [(b"", "IMAGE_EMPTY"), (b"no image", "IMAGE_UNDECODABLE")],
)
def test_one_image_that_cannot_be_read_refuses_the_request(image: bytes, reason: str) -> None:
    images = objects(png(RED), image)
    assert refusal(reason, lambda: work(images=images)).startswith("image 1: ")


def test_an_image_of_too_many_pixels_is_refused() -> None:
    message = refusal("IMAGE_TOO_LARGE", lambda: work(images=objects(png(RED, 101, 100))))
    assert message.startswith("image 0: ")


def test_thresholds_are_the_models_own_unless_the_request_has_some() -> None:
    assert thresholds(work(images=pixels())) == [(0.25, 0.5)] * 2
    made = work(images=pixels(), score_threshold=floats([0.0], [1.0]))
    assert thresholds(made) == [(0.0, 0.5), (1.0, 0.5)]
    made = work(images=pixels(), score_threshold=floats(0.125, 0.125), iou_threshold=floats([0.75], [0.75]))
    assert thresholds(made) == [(0.125, 0.75)] * 2


def test_a_request_has_one_overlap_for_all_of_its_images() -> None:
    refusal("IOU_THRESHOLD_MIXED", lambda: work(images=pixels(), iou_threshold=floats([0.75], [0.5])))


@pytest.mark.parametrize("name", ["score_threshold", "iou_threshold"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf, -1e-30])
def test_a_threshold_out_of_range_is_refused(name: str, value: float) -> None:
    message = refusal(
        f"{name.upper()}_OUT_OF_RANGE", lambda: work(images=pixels(), **{name: floats(0.5, value)})
    )
    assert message == f"a {name} is outside of [0, 1]."


def test_the_engine_is_told_what_is_wanted_and_each_image_has_its_share_of_the_reply() -> None:
    wanted = [Wanted("heatmap"), Wanted("probabilities", 1)]
    first, second = work(classifier(), wanted, images=pixels())
    assert first.options == TensorOptions(
        ("heatmap", "probabilities"), frozenset({"heatmap"}), 0.0, 0.0, max_picture_bytes=500
    )
    assert second.options == first.options
    (alone,) = work(classifier(), wanted[1:], images=pixels(1))
    assert (alone.options.extra_outputs, alone.options.max_picture_bytes) == (frozenset(), 1000)


def test_each_image_has_its_regions() -> None:
    boxes = floats([[0, 0, 1, 2], [1, 1, 3, 3]], [[5, 5, 6, 6], [7, 7, 8, 8]])
    made = work(detector(max_regions=2), images=pixels(), regions=boxes)
    assert [one.regions.tolist() for one in made] == boxes.tolist()


def test_rows_of_zeros_are_no_regions() -> None:
    boxes = floats([[0, 0, 1, 2], [0, 0, 0, 0]])
    (made,) = work(detector(max_regions=2), images=pixels(1), regions=boxes)
    assert made.regions is not None
    assert made.regions.tolist() == [[0, 0, 1, 2]]
    boxes = floats([[0, 0, 0, 0], [0, 0, 0, 0]])
    refusal(
        "REGION_COUNT_OUT_OF_RANGE",
        lambda: work(detector(max_regions=2), images=pixels(1), regions=boxes),
    )


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (2, 0, 1, 1), (math.nan, 0, 1, 1), (0, 0, math.inf, 1)])
def test_a_region_that_is_none_refuses_the_request(box: tuple[float, ...]) -> None:
    boxes = floats([[0, 0, 1, 1]], [box])
    message = refusal("REGION_INVALID", lambda: work(detector(max_regions=1), images=pixels(), regions=boxes))
    assert message.startswith("image 1: region 0 ")


# Models without a manifest


def plain(*, batched: bool) -> ServedModel:
    inputs = {"a": TensorSpec("a", "FP32", (-1, -1)), "b": TensorSpec("b", BYTES, (-1,))}
    outputs = {"y": TensorSpec("y", "FP32", (-1, 2)), "open": TensorSpec("open", "FP64", (-1, -1, 3))}
    return replace(classifier(), task=Task.TENSOR, interface=Interface(inputs, outputs, batched=batched))


def test_tensors_in_rows_are_counted_by_them_and_given_on_row_by_row() -> None:
    declared = [Declared("a", "FP32", (3, 7)), Declared("b", BYTES, (3,))]
    assert inference.check_inputs(plain(batched=True), declared, MOST_IMAGES) == 3
    inputs = {"a": np.zeros((3, 7), np.float32), "b": objects(b"", b"", b"")}
    made = inference.works(plain(batched=True), inputs, [Wanted("y")], LIMITS)
    assert made == [TensorWork(inputs, row) for row in range(3)]


def test_tensors_without_rows_are_one_piece_of_work_of_any_size() -> None:
    declared = [Declared("a", "FP32", (1000, 7)), Declared("b", BYTES, (3,))]
    assert inference.check_inputs(plain(batched=False), declared, MOST_IMAGES) == 1
    assert (
        inference.check_inputs(plain(batched=False), [replace(declared[0], shape=(0, 0)), declared[1]], 1)
        == 1
    )
    inputs = {"a": np.zeros((1000, 7), np.float32), "b": objects(b"", b"", b"")}
    assert inference.works(plain(batched=False), inputs, [Wanted("y")], LIMITS) == [TensorWork(inputs, None)]


def test_an_input_named_images_takes_files_only_where_it_is_one_of_a_bundle() -> None:
    assert not takes(TensorSpec("images", "UINT8", (-1, 4)), BYTES, (2,))
    assert takes(TensorSpec("anything", "UINT8", (-1, 4), encoded=True), BYTES, (2,))


def test_outputs_without_rows_are_given_as_they_are() -> None:
    found = inference.outputs(plain(batched=False), [outcome(y=floats(0.25, 0.5))], [Wanted("y")])
    assert found["y"].tolist() == [0.25, 0.5]
    found = inference.outputs(plain(batched=False), [outcome(y=floats(0.25, 0.5))], [Wanted("y", 1)])
    assert found["y"].tolist() == [b"0.500000:1"]


def test_what_a_graph_leaves_open_is_held_against_the_limit_when_it_has_run() -> None:
    assert inference.output_bytes(plain(batched=True), [Wanted("open")], 2, 48) == 48
    outputs = {"open": np.zeros((2, 10, 3)), "y": floats(1, 2)}
    inference.check_output_bytes(outputs, 488)
    message = refusal("REPLY_TOO_LARGE", lambda: inference.check_output_bytes(outputs, 487))
    assert "take 488 bytes, more than 487; send fewer rows, or ask for fewer outputs" in message


# Answers


def test_outputs_have_a_row_for_each_image() -> None:
    outcomes = [
        outcome(scores=floats(0.5, 0.25), boxes=floats([1, 2])),
        outcome(scores=floats(1, 0), boxes=floats([3, 4])),
    ]
    found = inference.outputs(detector(), outcomes, [Wanted("boxes"), Wanted("scores")])
    assert list(found) == ["boxes", "scores"]
    assert found["scores"].tolist() == [[0.5, 0.25], [1, 0]]
    assert found["boxes"].shape == (2, 1, 2)


def classes(model: ServedModel, *rows: Array, top_k: int = 2, name: str = "probabilities") -> Any:
    outcomes = [outcome(**{name: row}) for row in rows]
    return inference.outputs(model, outcomes, [Wanted(name, top_k)])[name]


def test_classes_are_named_by_a_classifiers_labels() -> None:
    found = classes(classifier(), floats(0.25, 0.75), floats(1, 0), top_k=1)
    assert found.tolist() == [[b"0.750000:1:green"], [b"1.000000:0:red"]]


def test_of_equal_values_the_first_class_is_named_first() -> None:
    assert classes(classifier(), floats(0.5, 0.5)).tolist() == [[b"0.500000:0:red", b"0.500000:1:green"]]


@pytest.mark.parametrize("top_k", [2, 3, 2**64 - 1])
def test_more_classes_than_there_are_means_all(top_k: int) -> None:
    assert classes(classifier(), floats(0.25, 0.75), floats(1, 0), top_k=top_k).shape == (2, 2)


def test_classes_without_a_label_have_none() -> None:
    found = classes(classifier(labels=["red"]), floats(0.25, 0.75))
    assert found.tolist() == [[b"0.750000:1", b"0.250000:0:red"]]


def test_what_is_no_classifier_names_no_classes_by_labels() -> None:
    assert classes(detector(), floats(0.25, 0.75), name="scores").tolist() == [[b"0.750000:1", b"0.250000:0"]]


def test_one_image_that_failed_fails_the_request() -> None:
    outcomes = [outcome(scores=floats(1)), Outcome[Answer](ImageError("it is damaged."), 0.0)]
    message = refusal(
        "IMAGE_UNDECODABLE", lambda: inference.outputs(detector(), outcomes, [Wanted("scores")])
    )
    assert message == "image 1: it is damaged."


def test_an_error_of_the_engine_is_not_the_callers() -> None:
    error = EngineError("the engine failed.")
    outcomes = [outcome(scores=floats(1)), Outcome[Answer](error, 0.0)]
    with pytest.raises(EngineError) as raised:
        inference.outputs(detector(), outcomes, [Wanted("scores")])
    assert raised.value is error


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_answer_of_every_type_comes_back_from_the_wire(datatype: str) -> None:
    array = np.array([[b"a", b""]] if datatype == BYTES else [[0, 1]], DTYPES[datatype])
    request = pb.ModelInferRequest(id="seven")
    reply = infer_response(classifier(), request, {"x": array}, {}, None)
    assert (reply.model_name, reply.model_version, reply.id) == ("a-model", "3", "seven")
    (told,), (content,) = reply.outputs, reply.raw_output_contents
    assert (told.name, told.datatype, list(told.shape)) == ("x", datatype, [1, 2])
    assert from_bytes("x", told.datatype, told.shape, content).tolist() == array.tolist()


def test_an_answer_that_goes_to_shared_memory_leaves_its_place_empty() -> None:
    class Written:
        def write(self, *where: Any) -> None:
            self.where = where

    regions: Any = Written()
    arrays = {"a": floats(1), "b": floats(2, 3)}
    reply = infer_response(classifier(), pb.ModelInferRequest(), arrays, {"b": ("region", 16, 100)}, regions)
    assert regions.where == ("region", 16, floats(2, 3).tobytes(), 100)
    assert list(reply.raw_output_contents) == [floats(1).tobytes(), b""]
    parameters = reply.outputs[1].parameters
    assert parameters["shared_memory_region"].string_param == "region"
    assert parameters["shared_memory_offset"].int64_param == 16
    assert parameters["shared_memory_byte_size"].int64_param == 8
    assert not reply.outputs[0].parameters
