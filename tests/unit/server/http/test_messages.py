"""Messages are JSON as callers expect it, and texts set fields as the protos say."""

import json
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from retinue.inference import grpc_service_pb2 as inference
from retinue.v1 import manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server.refusals import refusal

from retinue_server.errors import ImageError, OverloadedError
from retinue_server.http.messages import fill, plain, to_json
from retinue_server.rpc.status import to_status


def test_json_has_neither_nan_nor_infinity() -> None:
    assert to_json([float("nan"), float("inf"), {"a": -float("inf")}, 1.5, "NaN"]) == (
        b'[null,null,{"a":null},1.5,"NaN"]'
    )


def test_fields_are_there_also_where_they_are_empty() -> None:
    assert plain(pb.ClassifyResponse()) == {"outcomes": [], "model": "", "version": 0}
    assert plain(pb.ClassScore()) == {"class_id": 0, "label": "", "score": 0.0}


def test_fields_that_tell_by_being_absent_are_left_out_and_so_are_empty_bytes() -> None:
    outcome = pb.ClassifyOutcome(result=pb.Classification())
    assert plain(outcome) == {"result": {"classes": []}}
    assert plain(pb.ClassifyOutcome(timing=pb.Timing(queue_us=7)))["timing"]["queue_us"] == 7
    assert "top_k" not in plain(pb.ClassifyRequest())
    assert plain(pb.ClassifyRequest(top_k=0))["top_k"] == 0


def test_an_error_is_what_it_is_everywhere() -> None:
    error = to_status(ImageError("it is none.", reason="IMAGE_UNDECODABLE"))
    told = {"error": "it is none.", "status": "INVALID_ARGUMENT", "reason": "IMAGE_UNDECODABLE"}
    assert plain(error) == plain(pb.DetectOutcome(error=error))["error"] == told
    full = OverloadedError("full.", retry_after_seconds=1)
    assert plain(to_status(full))["reason"] == "QUEUE_FULL"


def test_each_kind_of_field_is_as_json_has_it() -> None:
    detection = pb.Detection(box={"x_max": 0.1}, score=1 / 3, mask_counts=b"0123")
    assert plain(detection) == {
        "box": {"x_min": 0.0, "y_min": 0.0, "x_max": 0.1, "y_max": 0.0},
        "class_id": 0,
        "label": "",
        # The fewest digits, not those of 64 bits.
        "score": 0.33333334,
        "mask_counts": "0123",
        "keypoints": [],
        "classes": [],
    }
    assert plain(pb.RleMask(counts=b"`a0"))["counts"] == "`a0"
    assert plain(pb.Segmentation(raw=b"\x00\xff"))["raw"] == "AP8="
    # Of a oneof, also empty bytes say which it is, but there are none to give.
    assert plain(pb.Segmentation(png=b"")).keys() == {"width", "height", "areas"}
    assert plain(pb.ClassArea(area_pixels=2**53))["area_pixels"] == 2**53
    assert plain(pb.ListModelsRequest(task=manifest_pb2.TASK_DETECT)) == {"task": "TASK_DETECT"}
    unknown = pb.ListModelsRequest()
    unknown.MergeFromString(b"\x08\x63")
    assert plain(unknown) == {"task": 99}


def test_maps_are_objects() -> None:
    status = inference.SystemSharedMemoryStatusResponse()
    status.regions["b"].byte_size = 2
    status.regions["a"].byte_size = 1
    assert list(plain(status)["regions"]) == ["a", "b"]
    assert plain(status)["regions"]["b"]["byte_size"] == 2
    config = inference.ModelConfig()
    config.parameters["key"].string_value = "text"
    assert plain(config)["parameters"] == {"key": {"string_value": "text"}}


@pytest.mark.parametrize(
    "message",
    [
        *(pb.ClassifyResponse, pb.DetectResponse, pb.SegmentResponse, pb.ListModelsResponse),
        *(inference.ModelConfig, inference.ModelStatisticsResponse, inference.ModelMetadataResponse),
        inference.RepositoryIndexResponse,
    ],
)
def test_every_reply_can_be_told(message: Any) -> None:
    filled = message()
    _fill_all(filled)
    told = json.loads(to_json(plain(filled)))
    # All but those that a oneof leaves no room for.
    assert told.keys() >= {
        field.name for field in message.DESCRIPTOR.fields if field.containing_oneof is None
    }


def _fill_all(message: Any, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        target = getattr(message, field.name)
        if field.message_type is not None and depth < 6:
            _fill_all(target.add() if field.is_repeated else target, depth + 1)
            if not field.is_repeated:
                target.SetInParent()
        elif field.message_type is None:
            value: Any = {
                FieldDescriptor.TYPE_BYTES: b"0",
                FieldDescriptor.TYPE_STRING: "text",
                FieldDescriptor.TYPE_BOOL: True,
            }.get(field.type, 3)
            if field.is_repeated:
                target.append(value)
            else:
                setattr(message, field.name, value)


def test_texts_set_the_fields_they_name() -> None:
    request = pb.DetectRequest()
    fill(
        request,
        {
            "model": ["m"],
            "version": ["3"],
            "score_threshold": ["0.25"],
            "max_detections": ["7"],
            "classes": ["a", "b"],
            "masks": ["True"],
            "priority": ["HIGH"],
        },
    )
    assert request == pb.DetectRequest(
        model="m",
        version=3,
        score_threshold=0.25,
        max_detections=7,
        classes=["a", "b"],
        masks=True,
        priority=pb.PRIORITY_HIGH,
    )
    segment = pb.SegmentRequest()
    fill(segment, {"mask_format": ["coco_rle"], "mask_size": ["model"]})
    assert segment.mask_format == pb.MASK_FORMAT_COCO_RLE
    assert segment.mask_size == pb.MASK_SIZE_MODEL


def test_dotted_names_set_the_fields_of_a_message_within() -> None:
    request = pb.DetectRequest()
    fill(request, {"classify_with.model": ["m"], "classify_with.top_k": ["1"]})
    assert request == pb.DetectRequest(classify_with=pb.ClassifyWith(model="m", top_k=1))
    # Which a pipeline's own classifier is asked by.
    for name in ("classify_with.model", "classify_with.context"):
        request = pb.DetectRequest()
        fill(request, {name: ["0" if name.endswith("context") else ""]})
        assert request.HasField("classify_with")
        assert request == pb.DetectRequest(classify_with=pb.ClassifyWith())
    message = refusal("OPTION_INVALID", lambda: fill(pb.DetectRequest(), {"classify_with.top_k": ["many"]}))
    assert message.startswith("option 'classify_with.top_k' cannot be 'many'; it is a single whole number")


@pytest.mark.parametrize(
    "name",
    [
        "classify_with",
        "classify_with.",
        ".classify_with",
        "classify_with.topk",
        "classify_with.model.x",
        "images.encoded",
        "images.raw.height",
        "model.x",
    ],
)
def test_a_dotted_name_that_leads_nowhere_is_refused(name: str) -> None:
    message = refusal("OPTION_UNKNOWN", lambda: fill(pb.DetectRequest(), {name: ["1"]}))
    assert "classify_with.model, classify_with.version, classify_with.top_k" in message
    assert "images" not in message.partition("there are:")[2]


@pytest.mark.parametrize(
    ("name", "texts", "says"),
    [
        ("top_k", ["many"], "it is a single whole number from -2147483648 to 2147483647."),
        ("top_k", [""], "a single whole number"),
        ("top_k", ["1.5"], "a single whole number"),
        ("top_k", ["1", "2"], "cannot be '1, 2'; it is a single whole number"),
        ("top_k", ["99999999999"], "from -2147483648 to 2147483647."),
        ("top_k", ["9" * 5000], "from -2147483648 to 2147483647."),
        ("min_score", ["half"], "it is a single number."),
        ("heatmap", ["perhaps"], "it is true or false"),
        ("heatmap", [], "it is true or false"),
        ("priority", ["urgent"], "choose high or normal or low"),
        ("priority", ["1"], "choose high or normal or low"),
        ("model", ["a", "b"], "give it once"),
        ("model", ["\ud800"], "give it once"),
    ],
)
def test_a_text_that_a_field_does_not_take_is_refused(name: str, texts: list[str], says: str) -> None:
    message = refusal("OPTION_INVALID", lambda: fill(pb.ClassifyRequest(), {name: texts}))
    assert message.startswith(f"option '{name}' cannot be '")
    assert says in message
    assert len(message) < 400


@pytest.mark.parametrize("name", ["images", "topk", "", "DESCRIPTOR", "x" * 1000])
def test_an_unknown_option_is_refused_with_those_there_are(name: str) -> None:
    message = refusal("OPTION_UNKNOWN", lambda: fill(pb.ClassifyRequest(), {name: ["1"]}))
    assert message.endswith("there are: model, version, top_k, min_score, heatmap, priority, version_label.")
    assert len(message) < 400
