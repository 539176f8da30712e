import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from retinue_client import (
    ClassArea,
    Classification,
    ClassScore,
    Detection,
    Detections,
    ImageError,
    Keypoint,
    RleMask,
    Segmentation,
    Timing,
)
from retinue_client._palette import colour_of_class

TIMING = Timing(
    decode_us=1500, queue_us=200, inference_us=6000, postprocess_us=100, total_us=8140, batch_size=4
)
ORIGIN = {"model": "m", "version": 3, "timing": TIMING}


def classification(*scores):
    classes = tuple(ClassScore(index, f"class {index}", score) for index, score in enumerate(scores))
    return Classification(classes, **ORIGIN)


def detections(count=4):
    boxes = np.array([[0, 0, 10, 10], [5, 5, 50, 40], [1, 2, 3, 4], [20.5, 20, 40, 44]], dtype=np.float32)
    return Detections(
        boxes=boxes[:count],
        scores=np.array([0.9, 0.8, 0.5, 0.25], dtype=np.float32)[:count],
        class_ids=np.array([2, 0, 2, 1], dtype=np.int32)[:count],
        labels=("boot", "shirt", "boot", "bag")[:count],
        image_width=64,
        image_height=48,
        **ORIGIN,
    )


def segmentation(mask_format="raw", mask_size="original", labels=("background", "bag"), **changes):
    class_map = np.zeros((4, 6), dtype=np.uint8)
    class_map[1:3, 2:5] = 2
    fields = {
        "width": 6,
        "height": 4,
        "areas": (ClassArea(0, labels[0], 18), ClassArea(2, labels[1], 6)),
        "mask_format": mask_format,
        "mask_size": mask_size,
        "encoded": b"" if mask_format == "coco_rle" else class_map.tobytes(),
        "rle_masks": (RleMask(2, "bag", b"9220003", 4, 6),) if mask_format == "coco_rle" else (),
        **ORIGIN,
    }
    return Segmentation(**(fields | changes)), class_map


def test_results_cannot_be_changed():
    for result in (classification(0.5), detections(), segmentation()[0], TIMING):
        for name in (entry.name for entry in dataclasses.fields(result)):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(result, name, "other")
    for array in (
        detections().boxes,
        detections().scores,
        detections().class_ids,
        segmentation()[0].class_map,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_best_class_is_the_first_and_its_absence_is_an_error():
    assert classification(0.7, 0.2).best == ClassScore(0, "class 0", 0.7)
    with pytest.raises(LookupError):
        _ = classification().best


def test_results_say_in_one_line_what_was_seen_and_by_whom():
    assert repr(classification(0.7, 0.2)) == "<Classification class 0 0.70, class 1 0.20; m v3, 8.1 ms>"
    assert repr(classification(*[0.1] * 5)).startswith(
        "<Classification class 0 0.10, class 1 0.10, class 2 0.10, 2 more;"
    )
    assert repr(detections()) == (
        "<Detections 4 in 64x48: boot 0.90, shirt 0.80, boot 0.50, 1 more; m v3, 8.1 ms>"
    )
    assert repr(detections(0)) == "<Detections 0 in 64x48: none; m v3, 8.1 ms>"
    assert repr(segmentation()[0]) == "<Segmentation 6x4: background 75%, bag 25%; m v3, 8.1 ms>"


def test_detections_are_a_sequence_of_detections():
    found = detections()
    assert len(found) == 4
    assert found[3] == Detection(20.5, 20.0, 40.0, 44.0, score=0.25, class_id=1, label="bag")
    assert found[-1] == found[3]
    assert [one.label for one in found] == ["boot", "shirt", "boot", "bag"]
    assert isinstance(found[1:3], Detections)
    assert found[1:3].labels == ("shirt", "boot")
    assert found[3].box == (20.5, 20.0, 40.0, 44.0)
    assert (found[3].width, found[3].height, found[3].area) == (19.5, 24.0, 468.0)
    assert not detections(0)
    with pytest.raises(IndexError):
        _ = found[4]


def test_detections_are_filtered_by_score_class_and_area():
    found = detections()
    assert found.filter(min_score=0.5).labels == ("boot", "shirt", "boot")
    assert found.filter(labels="boot").scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.filter(labels=["shirt", "bag"], min_area=500).labels == ("shirt",)
    assert found.filter(labels=[]).labels == ()
    assert detections(0).filter(labels="boot").boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "result", [classification(0.5), detections(), segmentation()[0], segmentation("coco_rle")[0]]
)
def test_results_become_json(result):
    again = json.loads(json.dumps(result.to_dict()))
    assert again["model"] == "m"
    assert again["timing"] == {
        "decode_us": 1500,
        "queue_us": 200,
        "inference_us": 6000,
        "postprocess_us": 100,
        "total_us": 8140,
        "batch_size": 4,
    }


def test_a_detection_in_json_names_its_edges():
    assert detections().to_dict()["detections"][0] == {
        "x_min": 0.0,
        "y_min": 0.0,
        "x_max": 10.0,
        "y_max": 10.0,
        "score": pytest.approx(0.9),
        "class_id": 2,
        "label": "boot",
    }


def test_run_length_masks_in_json_are_what_coco_reads():
    mask = segmentation("coco_rle")[0].to_dict()["mask"]
    assert mask["masks"] == [{"class_id": 2, "label": "bag", "size": [4, 6], "counts": "9220003"}]


@pytest.mark.parametrize("mask_format", ["raw", "coco_rle"])
def test_the_class_map_is_the_same_in_every_format(mask_format):
    result, class_map = segmentation(mask_format)
    assert result.class_map.dtype == np.uint8
    assert np.array_equal(result.class_map, class_map)
    assert result.class_map is result.class_map
    assert np.array_equal(result.mask("bag"), class_map == 2)
    assert np.array_equal(result.mask(2), class_map == 2)
    assert not result.mask("no such class").any()
    assert np.array_equal(np.asarray(result.to_image()), class_map)


def test_a_label_that_several_classes_share_means_all_of_them():
    result, class_map = segmentation(labels=("bag", "bag"))
    assert result.mask("bag").all()
    assert np.array_equal(result.mask(2), class_map == 2)


def test_pixels_of_no_class_are_minus_one_where_nothing_says_what_they_are():
    result, class_map = segmentation("coco_rle", areas=(ClassArea(2, "bag", 6),))
    assert np.array_equal(result.class_map, np.where(class_map == 2, 2, -1))
    assert np.asarray(result.to_image()).max() == 255


def test_a_run_length_class_map_without_background_covers_every_pixel():
    full = RleMask(1, "sky", b"0h0", 4, 6)
    result, _ = segmentation("coco_rle", areas=(ClassArea(1, "sky", 24),), rle_masks=(full,))
    assert (result.class_map == 1).all()


def test_a_class_map_in_the_frame_of_the_model_is_not_drawn_on_the_image():
    result, _ = segmentation(mask_size="model")
    with pytest.raises(ValueError, match="original"):
        result.draw(np.zeros((4, 6, 3), np.uint8))


@pytest.mark.parametrize(("labels", "colour"), [(("background", "bag"), 1), (("road", "bag"), 2)])
def test_background_that_is_class_0_takes_no_colour_from_the_palette(labels, colour):
    drawn = segmentation(labels=labels)[0].draw(Image.new("RGB", (600, 400), "grey"))
    # On the outline of the class, where it is not mixed with the image's own colours.
    assert drawn.getpixel((200, 200)) == colour_of_class(colour)


def test_drawing_says_which_file_cannot_be_read(tmp_path):
    for result in (classification(0.5), detections(), segmentation()[0]):
        with pytest.raises(ImageError, match=r"gone\.png"):
            result.draw(tmp_path / "gone.png")


def test_drawing_leaves_the_given_image_alone():
    image = Image.new("RGB", (640, 480), (10, 20, 30))
    for result in (classification(0.5), detections(), segmentation()[0]):
        drawn = result.draw(image)
        assert drawn.mode == "RGB"
        assert drawn.tobytes() != image.tobytes()
        assert image.getcolors() == [(640 * 480, (10, 20, 30))]


def test_the_parts_of_results_say_what_they_are_without_their_bytes():
    mask = RleMask(2, "boot", b"9220003" * 1000, 4, 6)
    point = Keypoint("toe", 1.25, 2.0, 0.5)
    fields = {"score": 0.875, "class_id": 2, "label": "boot"}
    assert repr(Detection(1, 2, 30, 40.25, **fields)) == "<Detection boot 0.88 in (1.0, 2.0, 30.0, 40.2)>"
    full = Detection(
        1, 2, 30, 40, mask=mask, keypoints=(point,), classes=(ClassScore(1, "red", 0.5),), **fields
    )
    assert repr(full) == "<Detection boot 0.88, red 0.50 in (1.0, 2.0, 30.0, 40.0), with mask, 1 keypoints>"
    assert repr(mask) == "<RleMask boot in 6x4>"
    assert repr((point, ClassScore(1, "red", 0.5))) == "(<Keypoint toe at 1.2, 2.0>, <ClassScore red 0.50>)"


def test_results_are_read_only_arrays():
    classes = classification(0.75, 0.25)
    assert (classes.scores.dtype, classes.scores.tolist()) == (np.float32, [0.75, 0.25])
    assert (classes.class_ids.dtype, classes.class_ids.tolist()) == (np.int32, [0, 1])
    assert classes.labels == ("class 0", "class 1")
    assert classification().scores.shape == (0,)
    for array in (classes.scores, classes.class_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_slice_of_detections_shares_their_arrays_and_the_raw_class_map_its_bytes():
    found = detections()
    assert np.shares_memory(found[1:3].boxes, found.boxes)
    assert found[::-1].labels == ("bag", "boot", "shirt", "boot")
    result, _ = segmentation()
    assert np.shares_memory(result.class_map, np.frombuffer(result.encoded, np.uint8))
