"""What is asked of a server beside the images, and what is refused before anything is sent."""

import pytest
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import InvalidRequestError


def test_options_travel_as_given_and_absent_ones_stay_absent(ask, server):
    ask("classify", b"x")
    ask("classify", b"x", model="m", version=2, top_k=9, min_score=0.0, heatmap=True)
    ask("detect", b"x")
    ask("detect", b"x", score_threshold=0.5, max_detections=4, classes=["bag", "boot"])
    ask("detect", b"x", classes="bag", iou_threshold=0.25, masks=True, priority="low")
    ask("segment", b"x", mask_format="raw", mask_size="model", classes={"bag"}, priority="high")
    plain, full, plain_detect, full_detect, one_class, segment = server.service.requests
    assert not plain.HasField("top_k")
    assert not plain.HasField("min_score")
    assert (plain.model, plain.version, plain.heatmap) == ("", 0, False)
    assert (full.model, full.version, full.top_k, full.HasField("min_score")) == ("m", 2, 9, True)
    assert full.heatmap
    assert not plain_detect.HasField("score_threshold")
    assert not plain_detect.HasField("max_detections")
    assert (full_detect.score_threshold, full_detect.max_detections) == (0.5, 4)
    assert list(full_detect.classes) == ["bag", "boot"]
    assert list(one_class.classes) == ["bag"]
    assert (full_detect.HasField("iou_threshold"), full_detect.masks) == (False, False)
    assert (one_class.iou_threshold, one_class.masks) == (0.25, True)
    assert (full.priority, one_class.priority) == (pb.PRIORITY_NORMAL, pb.PRIORITY_LOW)
    assert segment.priority == pb.PRIORITY_HIGH
    assert (segment.mask_format, segment.mask_size) == (pb.MASK_FORMAT_RAW, pb.MASK_SIZE_MODEL)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("classify", {"top_k": 10**12}),
        ("classify", {"top_k": "five"}),
        ("classify", {"version": -(10**12)}),
        ("detect", {"score_threshold": "high"}),
        ("segment", {"mask_format": "jpeg"}),
        ("segment", {"mask_size": "half"}),
        ("classify", {"priority": "urgent"}),
        ("classify", {"version": "\ud800"}),
        ("classify", {"metadata": {"User": "x"}}),
        ("classify", {"metadata": {"grpc-timeout": "x"}}),
        ("detect", {"metadata": {"user-id": "é"}}),
        ("segment", {"metadata": {"user-id": 7}}),
    ],
)
def test_an_option_that_cannot_be_sent_is_an_invalid_request(ask, method, option):
    with pytest.raises(InvalidRequestError):
        ask(method, b"x", **option)


def test_who_calls_is_said_to_the_client_and_not_beside_a_call(ask, server):
    with pytest.raises(InvalidRequestError, match=r"token="):
        ask("classify", b"x", metadata={"authorization": "Bearer a-token"})
    assert server.service.requests == []


def test_a_version_that_no_server_can_have_is_an_invalid_request(ask):
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        ask("get_model", "a-classifier", 10**12)


def test_a_version_is_named_by_its_number_or_its_label(ask, server):
    ask("classify", b"x", version="canary")
    ask("detect", [b"x"], version=4)
    ask("segment", b"x")
    ask("get_model", "a-classifier", "stable")
    ask("classify", b"x", version="9")
    ask("get_model", "a-classifier", "9")
    named = [(request.version, request.version_label) for request in server.service.requests]
    assert named == [(0, "canary"), (4, ""), (0, ""), (0, "stable"), (9, ""), (9, "")]


def test_metadata_goes_beside_each_request(ask, server):
    sent = []
    server.service.on_request = lambda request, context: sent.append(dict(context.invocation_metadata()))
    ask("classify", b"x", metadata={"user-id": "ann"})
    ask("detect", [b"x"] * 3, metadata={"user-id": "bob"}, client={"max_request_images": 2})
    ask("segment", b"x")
    assert [entries.get("user-id") for entries in sent] == ["ann", "bob", "bob", None]


def test_an_unknown_option_is_a_type_error(ask):
    with pytest.raises(TypeError, match=r"^classify\(\) has no option 'topk'; it has .*, top_k, version\.$"):
        ask("classify", b"x", topk=3)
    with pytest.raises(TypeError, match=r"^segment\(\) has no option 'top_k'"):
        ask("segment", b"x", top_k=3)


@pytest.mark.parametrize("option", ["top_k", "min_score", "context"])
def test_what_is_asked_of_the_classifier_of_objects_is_said_with_it(ask, option):
    with pytest.raises(
        TypeError, match=rf"classify_with=retinue_client\.ClassifyWith\(model, {option}=\.\.\.\)"
    ):
        ask("detect", b"x", classify_with="x", **{option: 1})
