import math
from functools import partial

import pytest
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.batching.tickets import Priority
from retinue_server.catalog import ServedModel, ids_by_label
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import ClassifyOptions, Task, Work
from retinue_server.rpc import requests
from retinue_server.rpc.requests import open_image
from retinue_server.vision import instance_masks

BIRD, MACHINE = 1, 3
OPTIONS = ClassifyOptions(1, 0, max_picture_bytes=1000)

classify_options = partial(requests.classify_options, max_picture_bytes=1000)
detect_options = partial(requests.detect_options, max_picture_bytes=1000)
segment_options = partial(requests.segment_options, max_picture_bytes=1000)


def test_a_label_that_several_classes_have_means_all_of_them() -> None:
    labels = ["dog", "crane", "cat", "crane"]
    ids = ids_by_label(labels)
    assert ids == {"dog": {0}, "crane": {BIRD, MACHINE}, "cat": {2}}
    detector = served_model("a", task=Task.DETECT, labels=labels)
    detector.manifest.detect.max_detections = 10
    assert detect_options(pb.DetectRequest(classes=["crane"]), detector).class_ids == {BIRD, MACHINE}
    assert detect_options(pb.DetectRequest(classes=["dog", "crane"]), detector).class_ids == {
        0,
        BIRD,
        MACHINE,
    }
    assert detect_options(pb.DetectRequest(), detector).class_ids is None
    segmenter = served_model("b", task=Task.SEGMENT, labels=labels)
    assert segment_options(pb.SegmentRequest(classes=["crane"]), segmenter).class_ids == {BIRD, MACHINE}


def test_a_request_that_names_no_priority_has_the_normal_one() -> None:
    assert requests.priority(pb.ClassifyRequest()) is Priority.NORMAL
    assert requests.priority(pb.DetectRequest(priority=pb.PRIORITY_NORMAL)) is Priority.NORMAL
    assert requests.priority(pb.DetectRequest(priority=pb.PRIORITY_HIGH)) is Priority.HIGH
    assert requests.priority(pb.SegmentRequest(priority=pb.PRIORITY_LOW)) is Priority.LOW


def test_a_priority_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="priority 9 is unknown; use HIGH, NORMAL or LOW"):
        requests.priority(pb.ClassifyRequest(priority=9))  # type: ignore[arg-type]


def detector(*, adjustable: bool, mask_height: int = 0) -> ServedModel:
    model = served_model("a", task=Task.DETECT)
    options = model.manifest.detect
    options.max_detections = 10
    options.nms_iou_threshold = 0.25
    options.adjustable_thresholds = adjustable
    options.mask_height = mask_height
    return model


def test_the_overlap_threshold_is_the_models_own_unless_the_request_has_one() -> None:
    assert detect_options(pb.DetectRequest(), detector(adjustable=False)).iou_threshold == 0.25
    assert detect_options(pb.DetectRequest(), detector(adjustable=True)).iou_threshold == 0.25
    assert (
        detect_options(pb.DetectRequest(iou_threshold=0.75), detector(adjustable=True)).iou_threshold == 0.75
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_an_overlap_threshold_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be in \[0, 1\]") as refused:
        detect_options(pb.DetectRequest(iou_threshold=value), detector(adjustable=True))
    assert refused.value.reason == "IOU_THRESHOLD_OUT_OF_RANGE"


def test_a_heatmap_is_refused_by_a_model_that_has_none() -> None:
    model = served_model("a")
    request = pb.ClassifyRequest(heatmap=True)
    with pytest.raises(
        InvalidRequestError, match="gives no heatmap; leave heatmap unset, or export"
    ) as refused:
        classify_options(request, model)
    assert refused.value.reason == "NO_HEATMAP"
    model.manifest.classify.heatmap_height = 7
    assert classify_options(request, model).extra_outputs == {"heatmap"}
    assert classify_options(pb.ClassifyRequest(), model).extra_outputs == set()


def test_what_the_graph_does_not_offer_is_refused() -> None:
    model = detector(adjustable=False)
    with pytest.raises(InvalidRequestError, match=r"fixed in its graph at 0.25") as refused:
        detect_options(pb.DetectRequest(iou_threshold=0.5), model)
    assert refused.value.reason == "IOU_THRESHOLD_FIXED"
    with pytest.raises(InvalidRequestError, match="no masks") as refused:
        detect_options(pb.DetectRequest(masks=True), model)
    assert refused.value.reason == "NO_MASKS"
    assert detect_options(pb.DetectRequest(masks=True), detector(adjustable=False, mask_height=28)).masks


def test_an_image_brings_its_regions_or_fails_alone() -> None:
    box = image_pb2.BoundingBox(x_min=1, y_min=2, x_max=3, y_max=4)
    raw = image_pb2.RawImage(data=b"123", height=1, width=1)
    opened = open_image(image_pb2.Image(raw=raw, regions=[box]), OPTIONS, max_pixels=1, max_regions=1)
    assert isinstance(opened, Work)
    assert opened.regions is not None
    assert opened.regions.tolist() == [[1, 2, 3, 4]]
    refused = open_image(image_pb2.Image(raw=raw, regions=[box]), OPTIONS, max_pixels=1, max_regions=0)
    assert isinstance(refused, ImageError)
    assert refused.reason == "REGIONS_NOT_TAKEN"


def test_an_image_has_its_share_of_the_reply_and_masks_of_objects_at_most_their_own_limit() -> None:
    assert classify_options(pb.ClassifyRequest(), served_model("a")).max_picture_bytes == 1000
    assert detect_options(pb.DetectRequest(), detector(adjustable=False)).max_picture_bytes == 1000
    segmenter = served_model("b", task=Task.SEGMENT)
    assert segment_options(pb.SegmentRequest(), segmenter).max_picture_bytes == 1000
    alone = requests.detect_options(
        pb.DetectRequest(), detector(adjustable=False), max_picture_bytes=2 * instance_masks.MAX_BYTES
    )
    assert alone.max_picture_bytes == instance_masks.MAX_BYTES
