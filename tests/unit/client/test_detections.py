"""What `detect` asks and answers: boxes, masks, keypoints, and regions to look at."""

import grpc
import numpy as np
import pytest
from PIL import Image
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import (
    ClassifyWith,
    ClassScore,
    ImageError,
    InvalidRequestError,
    Keypoint,
    ResponseError,
    WithRegions,
)

Code = grpc.StatusCode


def test_detections_arrive_as_arrays_in_the_frame_of_the_image(ask):
    found = ask("detect", b"x")
    assert found.boxes.dtype == np.float32
    assert found.boxes.tolist() == [[1, 2, 11, 22], [5.5, 6.5, 30, 20]]
    assert found.class_ids.tolist() == [2, 0]
    assert found.labels == ("x", "bag")
    assert (found.image_width, found.image_height) == (64, 48)


def test_no_detections_are_an_empty_sequence(ask, server):
    server.service.alter_response = lambda response: response.outcomes[0].result.ClearField("detections")
    found = ask("detect", b"x")
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_masks_and_keypoints_come_with_the_objects_where_there_are_any(ask):
    plain, full = ask("detect", b"x"), ask("detect", b"x", masks=True)
    assert (plain.masks, plain.keypoints, plain[0].mask, plain[0].keypoints) == ((), (), None, ())
    assert full[1].mask.label == "bag"
    shown = full[0].mask.decode()
    assert shown.shape == (48, 64)
    assert shown[2:12, 1:9].all()
    assert shown.sum() == 80
    assert full[0].keypoints == (Keypoint("tip", 6, 12, 3.5),)
    assert full.filter(labels="bag").keypoints == full.keypoints[1:]
    assert "mask" not in plain[0].to_dict()
    assert full[0].to_dict()["keypoints"] == [{"name": "tip", "x": 6, "y": 12, "score": 3.5}]


def test_a_mask_that_is_missing_is_an_error_of_the_answer(ask, server):
    def without(response):
        response.outcomes[0].result.detections[1].mask_counts = b""

    server.service.alter_response = without
    with pytest.raises(ResponseError, match="without a mask"):
        ask("detect", b"x", masks=True)
    assert len(ask("detect", b"x")) == 2


def test_classes_come_with_the_objects_where_a_classifier_was_asked(ask, server):
    plain, full = ask("detect", b"x"), ask("detect", b"x", classify_with="colours")
    assert (plain.classes, plain.classifier, plain.classifier_version, plain[0].classes) == ((), "", 0, ())
    assert "classifier" not in plain.to_dict()
    red, blue = ClassScore(4, "red", 0.75), ClassScore(1, "blue", 0.125)
    assert full.classes == ((red, blue), ())
    assert (full.classifier, full.classifier_version) == ("colours", 5)
    assert [one.classes for one in full] == [(red, blue), ()]
    assert full.filter(labels="bag").classes == ((),)
    assert full[:1].classifier == "colours"
    told = full.to_dict()
    assert (told["classifier"], told["classifier_version"]) == ("colours", 5)
    assert told["detections"][0]["classes"] == [red.to_dict(), blue.to_dict()]


def test_a_pipeline_has_a_classifier_that_need_not_be_asked_for(ask, server):
    def classified(response):
        response.classifier, response.classifier_version = "colours", 5
        response.outcomes[0].result.detections[1].classes.add(class_id=4, label="red", score=0.75)

    server.service.alter_response = classified
    found = ask("detect", b"x")
    assert (found.classifier, found.classes) == ("colours", ((), (ClassScore(4, "red", 0.75),)))


def test_what_a_classifier_is_asked_reaches_the_server(ask, server):
    asked = ClassifyWith("colours", version=2, top_k=3, min_score=0.25, context=0.5)
    for classify_with in ("", asked, None):
        ask("detect", b"x", classify_with=classify_with)
    only, full, none = server.service.requests
    assert only.HasField("classify_with")
    assert only.classify_with == pb.ClassifyWith()
    assert full.classify_with == pb.ClassifyWith(
        model="colours", version=2, top_k=3, min_score=0.25, context=0.5
    )
    assert not none.HasField("classify_with")


@pytest.mark.parametrize("asked", [7, ClassifyWith(top_k="many")])
def test_what_cannot_be_asked_of_a_classifier_is_refused(ask, server, asked):
    with pytest.raises(InvalidRequestError):
        ask("detect", b"x", classify_with=asked)
    assert not server.service.requests


def test_a_server_that_knows_no_classifiers_is_found_out(ask, server):
    server.service.alter_response = lambda response: response.ClearField("classifier")
    with pytest.raises(ResponseError, match="asked no classifier"):
        ask("detect", b"x", classify_with="colours")


@pytest.mark.parametrize("lie", [{"score": 1.5}, {"score": float("nan")}, {"class_id": -1}])
def test_classes_that_cannot_be_are_an_error_of_the_answer(ask, server, lie):
    def lying(response):
        response.outcomes[0].result.detections[1].classes.add(**lie)

    server.service.alter_response = lying
    with pytest.raises(ResponseError):
        ask("detect", b"x", classify_with="colours")


def test_nothing_found_needs_no_mask(ask, server):
    server.service.alter_response = lambda response: response.outcomes[0].result.ClearField("detections")
    assert len(ask("detect", b"x", masks=True)) == 0


def test_objects_without_keypoints_are_drawn_beside_one_that_has_some(ask, server):
    def without(response):
        response.outcomes[0].result.detections[1].ClearField("keypoints")

    server.service.alter_response = without
    found = ask("detect", b"x", masks=True)
    assert [len(points) for points in found.keypoints] == [1, 0]
    assert found.draw(Image.new("RGB", (640, 480))).size == (640, 480)


def test_masks_and_keypoints_are_drawn(ask):
    picture = Image.new("RGB", (640, 480))
    plain, full = (np.asarray(ask("detect", b"x", masks=masks).draw(picture), int) for masks in (False, True))
    inside, tip = np.s_[95:105, 15:25], np.s_[119:121, 59:61]
    assert (full[inside] != plain[inside]).all(axis=2).any()
    assert (full[tip] != plain[tip]).any()


def test_regions_travel_with_their_image(ask, server):
    corners = [(1, 2, 3, 4), (5.5, 6, 7, 8)]
    ask("detect", [b"x", WithRegions(b"y", corners), WithRegions(b"z", np.array(corners)[:1])])
    (request,) = server.service.requests
    sent = [
        [(box.x_min, box.y_min, box.x_max, box.y_max) for box in image.regions] for image in request.images
    ]
    assert sent == [[], corners, corners[:1]]
    assert [image.encoded for image in request.images] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("regions", [[1, 2, 3, 4], [[1, 2, 3]], "everywhere", [["a", "b", "c", "d"]]])
def test_what_are_no_regions_is_a_type_error(ask, server, regions):
    with pytest.raises(TypeError, match="Regions are"):
        ask("detect", WithRegions(b"x", regions))
    assert server.service.requests == []


def test_an_image_with_regions_can_be_drawn_on_and_named_in_errors(ask):
    source = WithRegions(np.zeros((48, 64, 3), np.uint8), [(0, 0, 5, 5)])
    assert ask("detect", source).draw(source).width >= 64
    with pytest.raises(ImageError, match="no-such-file"):
        ask("detect", WithRegions("no-such-file.jpg", [(0, 0, 5, 5)]))
