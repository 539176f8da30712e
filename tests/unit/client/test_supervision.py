"""Results handed over to the supervision package."""

import sys

import numpy as np
import pytest

# It asks for OpenCV with a warning, and does without.
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV")


@pytest.fixture
def supervision():
    import supervision

    return supervision


def test_detections_have_the_same_boxes_scores_classes_and_names_there(ask, supervision):
    found = ask("detect", b"x")
    there = found.to_supervision()
    assert isinstance(there, supervision.Detections)
    assert there.xyxy.tolist() == found.boxes.tolist()
    assert there.confidence.tolist() == found.scores.tolist()
    assert there.class_id.tolist() == [2, 0]
    assert there["class_name"].tolist() == ["x", "bag"]
    assert there.mask is None
    # What is done to them there changes nothing here.
    there.xyxy[:] = 0
    there.confidence[:] = 0
    assert found.boxes.any()
    assert found.scores.all()


def test_masks_and_keypoints_go_along_and_are_filtered_there(ask, supervision):
    found = ask("detect", b"x", masks=True)
    there = found.to_supervision()
    assert (there.mask.shape, there.mask.dtype) == ((2, 48, 64), np.bool_)
    assert np.array_equal(there.mask[1], found.masks[1].decode())
    assert there.data["keypoints"].tolist() == [[[6, 12, 3.5]], [[6, 12, 3.5]]]
    surest = there[there.confidence > 0.6]
    assert surest["class_name"].tolist() == ["x"]
    assert surest.data["keypoints"].shape == (1, 1, 3)
    picture = np.zeros((48, 64, 3), np.uint8)
    assert supervision.MaskAnnotator().annotate(picture.copy(), surest).any()
    assert supervision.BoxAnnotator().annotate(picture.copy(), surest).any()


def test_no_detections_are_none_there_too(ask, server):
    server.service.alter_response = lambda response: response.outcomes[0].result.ClearField("detections")
    found = ask("detect", b"x", masks=True)
    assert len(found.to_supervision()) == 0
    assert found.decode_masks().shape == (0, 48, 64)
    assert found.keypoint_array().shape == (0, 0, 3)


@pytest.mark.parametrize("mask_format", ["png", "raw", "coco_rle"])
def test_each_class_of_a_segmentation_but_the_background_is_a_mask_with_its_box(ask, mask_format):
    there = ask("segment", b"x", mask_format=mask_format).to_supervision()
    assert there["class_name"].tolist() == ["bag"]
    assert there.class_id.tolist() == [2]
    assert there.mask[0].sum() == 6
    assert there.xyxy.tolist() == [[2, 1, 4, 2]]
    assert there.confidence is None


def test_a_segmentation_of_nothing_but_background_is_none(ask, server):
    def empty(response):
        result = response.outcomes[0].result
        result.raw = bytes(24)
        del result.areas[1:]
        result.areas[0].area_pixels = 24

    server.service.alter_response = empty
    there = ask("segment", b"x", mask_format="raw").to_supervision()
    assert (len(there), there.xyxy.shape) == (0, (0, 4))


def test_a_classification_is_the_same_classes(ask, supervision):
    there = ask("classify", b"a cat").to_supervision()
    assert isinstance(there, supervision.Classifications)
    assert [part.tolist() for part in there.get_top_k(1)] == [[7], [0.75]]


def test_without_the_package_its_absence_says_what_to_install(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    for question in ("classify", "detect", "segment"):
        with pytest.raises(ImportError, match=r"install retinue-client\[supervision\]"):
            ask(question, b"x").to_supervision()
