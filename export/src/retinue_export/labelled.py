"""Folders of labelled images of the user's: how good a model is on them, before and after it loses bits."""

import json
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb

from retinue_export import image_folders, quality
from retinue_export.assembly import Quality
from retinue_export.errors import ExportError
from retinue_export.inputs import Uint8
from retinue_export.parity import Runner
from retinue_server.errors import ImageError
from retinue_server.vision.spec import InputSpec

ANNOTATIONS = "annotations.json"
_MOST_ANNOTATION_BYTES = 1 << 28
_BATCH = 32
_SHOWN = 80
"""So many characters of a file's name that cannot be right."""


def read(folder: Path, manifest: pb.ModelManifest, spec: InputSpec) -> Quality:
    """Reads a labelled folder of the layout that belongs to the model's task.

    Classifiers: a folder for each class, of its label's or its id's name, images inside. Detectors: images, and their
    boxes in `annotations.json`, in COCO's format. Segmenters: images, and for each a PNG of the same name, but for the
    suffix, and of the upright image's size, whose levels, or palette entries, are class ids; 255 is left out.

    Args:
        folder: see above.
        manifest: its task, its labels and, of a segmenter, its background.
        spec: how images are prepared.

    Raises:
        ExportError: the folder is not laid out so, has no images, labels nothing, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder} of labelled images.")
    name = folder.resolve().name
    if manifest.task == pb.TASK_CLASSIFY:
        return _of_classes(folder, name, manifest.labels, spec)
    if manifest.task == pb.TASK_DETECT:
        photos = _with_boxes(folder, manifest.labels)
        return Quality(
            name,
            len(photos),
            lambda runner: quality.average_precision(runner, photos, spec, manifest.labels),
        )
    background = manifest.segment.background_class_id
    photos = _with_masks(folder, len(manifest.labels))
    return Quality(
        name,
        len(photos),
        lambda runner: {
            "mean_iou": quality.mean_iou(
                runner, photos, spec, len(manifest.labels), background if background >= 0 else None
            )
        },
    )


@dataclass(frozen=True, slots=True)
class Photo:
    """An image file and what is known of it; pixels are read when they are asked for.

    Attributes:
        path: the image.
        boxes: float32 [K,4], x1,y1,x2,y2 in its pixels.
        classes: int64 [K], class ids of the boxes.
        mask: the file of its class map, or None.
    """

    path: Path
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    mask: Path | None = None

    @property
    def image(self) -> Uint8:
        """As a person sees it: uint8 [H,W,3], RGB."""
        try:
            return np.asarray(image_folders.upright(image_folders.opened(self.path)))
        except ImageError as error:
            raise image_folders.unusable(self.path, error) from error

    @property
    def class_map(self) -> Uint8:
        """The class of each pixel: uint8 [H,W]."""
        assert self.mask is not None
        return _class_map(self.mask)


def _of_classes(folder: Path, name: str, labels: Sequence[str], spec: InputSpec) -> Quality:
    ids = {str(number): number for number in range(len(labels))}
    ids |= {label.replace("/", "_"): number for number, label in reversed(list(enumerate(labels)))}
    paths: list[Path] = []
    classes: list[int] = []
    for below in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if below.name.startswith("."):
            continue
        if below.name not in ids:
            raise ExportError(
                f"{below} is named after none of the model's {len(labels)} classes: give each folder a label's name, "
                "'/' written as '_', or a class id's."
            )
        found = image_folders.images_below(below)
        paths += found
        classes += [ids[below.name]] * len(found)
    if not paths:
        raise ExportError(
            f"{folder} has no folders with images: make one for each class, named after its label."
        )

    def measure(runner: Runner) -> dict[str, float]:
        right = 0.0
        for start in range(0, len(paths), _BATCH):
            images = image_folders.prepared(paths[start : start + _BATCH], spec)
            share = quality.top1_accuracy(runner, images, np.array(classes[start : start + _BATCH]))
            right += share * len(images)
        return {"top1_accuracy": right / len(paths)}

    return Quality(name, len(paths), measure)


def _with_boxes(folder: Path, labels: Sequence[str]) -> list[Photo]:
    path = folder / ANNOTATIONS
    content = _annotations(path)
    try:
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        files = {entry["id"]: _inside(entry["file_name"], path) for entry in content["images"]}
        boxes: dict[Any, list[NDArray[np.float32]]] = {number: [] for number in files}
        classes: dict[Any, list[int]] = {number: [] for number in files}
        for entry in content["annotations"]:
            if entry.get("iscrowd"):
                continue
            boxes[entry["image_id"]].append(_corners(entry["bbox"], path))
            classes[entry["image_id"]].append(_class_id(names[entry["category_id"]], labels, path))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ExportError(f"{path} is not in COCO's format: {type(error).__name__} {error}.") from error
    if not files:
        raise ExportError(f"{path} names no images.")
    # Unlike Path.is_file, this takes any name: one too long for the file system is of no file either.
    if missing := [image.name for image in files.values() if not os.path.isfile(image)]:
        raise ExportError(
            f"{path} names {missing[0][:_SHOWN]!r}, which is not there ({len(missing)} of {len(files)} are not)."
        )
    if not any(boxes.values()):
        raise ExportError(
            f"{path} has no box to measure with (crowds are not counted): add the boxes of what is in the images."
        )
    return [
        Photo(
            image,
            np.array(boxes[number], np.float32).reshape(-1, 4),
            np.array(classes[number], np.int64),
        )
        for number, image in files.items()
    ]


def _annotations(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_ANNOTATION_BYTES + 1)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error.strerror}. A detector's labelled images lie beside their boxes in COCO's "
            "format."
        ) from error
    if len(content) > _MOST_ANNOTATION_BYTES:
        raise ExportError(
            f"{path} is larger than {_MOST_ANNOTATION_BYTES} bytes: leave out segmentations, or some of the images."
        )
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not in COCO's format: it is not JSON, or nested too deeply.") from error


def _inside(name: str, path: Path) -> Path:
    """The file of that name in the folder of the annotations, or below."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ExportError(
            f"{path} names {name[:_SHOWN]!r}, outside of its folder: write each file_name relative to the folder, "
            "without '..'."
        )
    return path.parent / relative


def _corners(told: Sequence[float], path: Path) -> NDArray[np.float32]:
    """x1,y1,x2,y2, of COCO's x, y, width and height."""
    x, y, width, height = map(float, told)
    with np.errstate(over="ignore"):
        corners = np.array([x, y, x + width, y + height]).astype(np.float32)
    if not (np.isfinite(corners).all() and (corners[2:] > corners[:2]).all()):
        raise ExportError(
            f"{path} has the bbox [{x:g}, {y:g}, {width:g}, {height:g}]: x and y must be finite, width and height more "
            "than 0. Correct it, or leave it out."
        )
    return corners


def _class_id(name: str, labels: Sequence[str], path: Path) -> int:
    if name in labels:
        return list(labels).index(name)
    raise ExportError(f"{path} has boxes of the category {name!r}, which is none of the model's labels.")


def _with_masks(folder: Path, classes: int) -> list[Photo]:
    # Of photo.PNG and photo.png, which comes later, the second is the mask.
    masks = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".png"}
    photos = [
        Photo(path, np.empty((0, 4), np.float32), np.empty(0, np.int64), masks[path.stem])
        for path in image_folders.images_below(folder)
        if path.parent == folder and path.stem in masks and path != masks[path.stem]
    ]
    if not photos:
        raise ExportError(
            f"{folder} has no image with a mask beside it: photo.jpg and photo.png, whose levels are class ids."
        )
    counted = False
    for photo in photos:
        levels = photo.class_map
        (height, width), (mask_height, mask_width) = photo.image.shape[:2], levels.shape
        if (mask_height, mask_width) != (height, width):
            raise ExportError(
                f"{photo.mask} has {mask_width} x {mask_height} pixels, and {photo.path.name} {width} x {height}, "
                "turned as its EXIF orientation says: draw the mask on the upright image, at its size."
            )
        unknown = levels[(levels >= classes) & (levels != quality.NO_CLASS)]
        if unknown.size:
            raise ExportError(
                f"{photo.mask} has the class id {unknown[0]}, and the model's are 0 to {classes - 1}."
            )
        counted |= bool((levels < classes).any())
    if not counted:
        raise ExportError(
            f"The masks in {folder} are {quality.NO_CLASS} throughout, which is not counted: give pixels class ids."
        )
    return photos


def _class_map(path: Path) -> Uint8:
    try:
        mask = image_folders.opened(path)
        mask.load()
    except (ImageError, OSError, SyntaxError) as error:
        raise ExportError(f"{path} cannot be read as a mask: {error}.") from error
    if mask.mode not in ("L", "P"):
        raise ExportError(f"{path} is no mask: it must have 8-bit levels, or a palette, of class ids.")
    return np.asarray(mask)
