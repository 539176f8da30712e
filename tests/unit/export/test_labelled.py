"""Labelled folders: the layout of each task, measured as a caller would see it, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny

from retinue_export import labelled
from retinue_export.errors import ExportError
from retinue_export.parity import Outputs

RED, BLUE = (255, 0, 0), (0, 0, 255)


def manifest(task: pb.Task.ValueType = pb.TASK_CLASSIFY) -> pb.ModelManifest:
    return pb.ModelManifest(task=task, labels=["red", "a/b", "blue"])


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def by_colour(images: np.ndarray) -> Outputs:
    """A classifier that tells red from blue, and knows nothing of the class between."""
    red = images.reshape(len(images), -1, 3).mean(axis=1)[:, 0] / 255
    return {"probabilities": np.stack([red, np.zeros_like(red), 1 - red], axis=1).astype(np.float32)}


def test_folders_are_named_after_labels_or_class_ids(tmp_path: Path) -> None:
    save(tmp_path / "red" / "1.png", RED)
    save(tmp_path / "red" / "2.png", BLUE)
    save(tmp_path / "a_b" / "1.png", RED)
    save(tmp_path / "2" / "1.png", BLUE)
    (tmp_path / ".cache").mkdir()
    quality = labelled.read(tmp_path, manifest(), tiny.SPEC)
    assert (quality.dataset, quality.images) == (tmp_path.name, 4)
    assert quality.measure(by_colour) == {"top1_accuracy": 0.5}


def test_a_folder_of_no_class_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "green" / "1.png", RED)
    with pytest.raises(ExportError, match=r"green is named after none of the model's 3 classes"):
        labelled.read(tmp_path, manifest(), tiny.SPEC)


@pytest.mark.parametrize("name", ["loose.png", "red/notes.txt"])
def test_a_folder_without_labelled_images_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "red" / "1.png", RED)
    (tmp_path / "red" / "1.png").rename(tmp_path / name)
    with pytest.raises(ExportError, match="no folders with images"):
        labelled.read(tmp_path, manifest(), tiny.SPEC)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no folder .* of labelled images"):
        labelled.read(tmp_path / "none", manifest(), tiny.SPEC)


def annotations(**changes: Any) -> dict[str, Any]:
    """One image with a blue thing in it, and a crowd, which is not counted."""
    box = {"image_id": 7, "category_id": 3, "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "blue"}],
        "annotations": [
            {**box, "bbox": [1, 2, 3, 4]},
            {**box, "bbox": [0, 0, 6, 8], "iscrowd": 1},
        ],
        **changes,
    }


def finding(class_id: int) -> Any:
    def run(images: np.ndarray) -> Outputs:
        count = len(images)
        return {
            "boxes": np.tile(np.array([[1, 2, 4, 6]], np.float32), (count, 1, 1)),
            "scores": np.full((count, 1), 0.9, np.float32),
            "classes": np.full((count, 1), class_id, np.int32),
        }

    return run


def test_a_detectors_boxes_are_read_from_coco_annotations(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RED)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations()))
    quality = labelled.read(tmp_path, manifest(pb.TASK_DETECT), tiny.SPEC)
    assert quality.images == 1
    assert quality.measure(finding(2))["map_50_95"] == pytest.approx(1)
    assert quality.measure(finding(0))["map_50_95"] == 0


def box_of(bbox: list[float]) -> str:
    return json.dumps(annotations(annotations=[{"image_id": 7, "category_id": 3, "bbox": bbox}]))


def named(file_name: str) -> str:
    return json.dumps(annotations(images=[{"id": 7, "file_name": file_name}]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "not in COCO's format"),
        (json.dumps({"images": []}), "not in COCO's format"),
        (json.dumps(annotations(images=[], annotations=[])), "names no images"),
        (json.dumps(annotations(categories=[{"id": 3, "name": "green"}])), "category 'green'"),
        (json.dumps(annotations(categories=[])), "not in COCO's format"),
        (json.dumps(annotations()), r"names 'a\.png', which is not there"),
        ("[" * 100_000, "nested too deeply"),
        (box_of([1, 2, 10**400, 4]), "not in COCO's format: OverflowError"),
        (named("a" * 5000), r"names 'a{80}', which is not there"),
        (named("/etc/hostname"), "names '/etc/hostname', outside of its folder"),
        (named("photos/../../a.png"), "outside of its folder: write each file_name relative to the folder"),
        (box_of([float("nan"), 2, 3, 4]), r"has the bbox \[nan, 2, 3, 4\]"),
        (box_of([1, 2, float("inf"), 4]), r"has the bbox \[1, 2, inf, 4\]"),
        (box_of([1e300, 2, 3, 4]), "x and y must be finite"),
        (box_of([1, 2, 0, 4]), "width and height more than 0"),
        (box_of([1, 2, 3, -4]), "width and height more than 0"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(ExportError, match=said):
        labelled.read(tmp_path, manifest(pb.TASK_DETECT), tiny.SPEC)


@pytest.mark.parametrize("boxes", [[], annotations()["annotations"][1:]])
def test_annotations_that_count_no_box_are_refused(tmp_path: Path, boxes: list[object]) -> None:
    save(tmp_path / "a.png", RED)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations(annotations=boxes)))
    with pytest.raises(ExportError, match="has no box to measure with"):
        labelled.read(tmp_path, manifest(pb.TASK_DETECT), tiny.SPEC)


def test_annotations_are_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "_MOST_ANNOTATION_BYTES", 99)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations()))
    with pytest.raises(ExportError, match="is larger than 99 bytes"):
        labelled.read(tmp_path, manifest(pb.TASK_DETECT), tiny.SPEC)


def mask(path: Path, levels: list[int]) -> None:
    """Columns of these class ids."""
    Image.fromarray(np.tile(np.array(levels, np.uint8), (8, 1))).save(path)


def columns(*classes: int) -> Any:
    return lambda images: {"class_map": np.tile(np.array(classes, np.uint8), (len(images), 8, 1))}


def segmenter() -> pb.ModelManifest:
    made = manifest(pb.TASK_SEGMENT)
    made.segment.background_class_id = 0
    return made


def test_a_segmenters_classes_are_read_from_masks_and_what_they_leave_out_is_not_counted(
    tmp_path: Path,
) -> None:
    save(tmp_path / "a.jpg", RED)
    mask(tmp_path / "a.png", [0, 0, 0, 2, 2, 255])
    quality = labelled.read(tmp_path, segmenter(), tiny.SPEC)
    assert quality.images == 1
    assert quality.measure(columns(0, 0, 0, 2, 2, 1)) == {"mean_iou": 1}
    assert quality.measure(columns(0, 0, 0, 0, 2, 2))["mean_iou"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_the_case_of_a_masks_suffix_does_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "a.JPG", RED)
    mask(tmp_path / "a.PNG", [0, 0, 0, 2, 2, 255])
    assert labelled.read(tmp_path, segmenter(), tiny.SPEC).images == 1


def test_of_two_pngs_the_one_in_lower_case_is_the_mask(tmp_path: Path) -> None:
    save(tmp_path / "a.PNG", RED)
    mask(tmp_path / "a.png", [0, 0, 0, 2, 2, 255])
    assert labelled.read(tmp_path, segmenter(), tiny.SPEC).images == 1


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", RED, (40, 30))
    mask(tmp_path / "a.png", [0] * 20)
    with pytest.raises(ExportError, match=r"a\.png has 20 x 8 pixels, and a\.jpg 40 x 30"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)


def test_a_mask_of_an_image_that_exif_turns_is_drawn_on_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 8), RED).save(tmp_path / "a.jpg", exif=exif)
    mask(tmp_path / "a.png", [0] * 6)
    with pytest.raises(ExportError, match=r"has 6 x 8 pixels, and a\.jpg 8 x 6, turned .* the upright image"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    assert labelled.read(tmp_path, segmenter(), tiny.SPEC).images == 1


def test_masks_that_count_no_pixel_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", RED)
    mask(tmp_path / "a.png", [255] * 6)
    with pytest.raises(ExportError, match="are 255 throughout"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)


def test_a_mask_of_unknown_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", RED)
    mask(tmp_path / "a.png", [0, 1, 2, 3, 0, 0])
    with pytest.raises(ExportError, match=r"class id 3, and the model's are 0 to 2"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)


def test_images_without_masks_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RED)
    with pytest.raises(ExportError, match="no image with a mask"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", RED)
    save(tmp_path / "a.png", RED)
    with pytest.raises(ExportError, match="is no mask"):
        labelled.read(tmp_path, segmenter(), tiny.SPEC)
