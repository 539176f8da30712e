"""Folders of the user's images: what ranges of values are measured on, and what comes with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from retinue_export.errors import ExportError
from retinue_export.inputs import MAX_PIXELS, Uint8, prepare_one
from retinue_server.errors import ImageError
from retinue_server.vision import decode, resize
from retinue_server.vision.spec import InputSpec

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""What counts as an image; other files are left alone."""
MOST_CALIBRATION_IMAGES = 128
MOST_HELD_BACK = 128
_LEAST_CALIBRATION_IMAGES = 8
_HELD_BACK_ONE_IN = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """Images like those that a network will see.

    Attributes:
        folder: the folder's name.
        images: uint8 [N,H,W,C], prepared, to measure ranges on.
        held_back: uint8 [N,H,W,C], others, to see on what fewer bits change.
    """

    folder: str
    images: Uint8
    held_back: Uint8


def calibration(folder: Path, spec: InputSpec) -> Calibration:
    """Reads images to calibrate with; every fourth is held back.

    Args:
        folder: images in it and in the folders below it; of many, some from everywhere are taken.
        spec: how they are prepared.

    Raises:
        ExportError: there are too few, or one cannot be read.
    """
    paths = images_below(folder)
    if len(paths) < _LEAST_CALIBRATION_IMAGES:
        raise ExportError(
            f"{folder} has {len(paths)} images, and calibration needs at least {_LEAST_CALIBRATION_IMAGES}, "
            "better a hundred, like those that the model will see."
        )
    kept = [path for place, path in enumerate(paths) if place % _HELD_BACK_ONE_IN]
    held_back = paths[::_HELD_BACK_ONE_IN]
    return Calibration(
        folder=folder.resolve().name,
        images=prepared(_spread(kept, MOST_CALIBRATION_IMAGES), spec),
        held_back=prepared(_spread(held_back, MOST_HELD_BACK), spec),
    )


def images_below(folder: Path) -> list[Path]:
    """The image files of a folder and those below it, in order; names that begin with a dot are left out.

    Raises:
        ExportError: it is no folder.
    """
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder} of images.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def prepared(paths: Sequence[Path], spec: InputSpec) -> Uint8:
    """Reads and prepares images as the server does: uint8 [N,H,W,C].

    Raises:
        ExportError: one cannot be read.
    """
    pixels = np.empty((len(paths), spec.height, spec.width, spec.channels), np.uint8)
    for row, path in zip(pixels, paths, strict=True):
        row[:] = read(path, spec)[0]
    return pixels


def read(path: Path, spec: InputSpec) -> tuple[Uint8, resize.Frame]:
    """Reads one image, see `prepare_one`.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        return prepare_one(opened(path), spec)
    except ImageError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: ImageError) -> ExportError:
    """What to say of an image that the server would refuse."""
    return ExportError(f"{path} cannot be used, take it out of the folder: {error.message}")


def opened(path: Path) -> Image.Image:
    """Opens an image as the server opens what it is sent.

    Raises:
        ExportError: the file cannot be read.
        ImageError: it is no image.
    """
    try:
        return decode.open_encoded(path.read_bytes(), max_pixels=MAX_PIXELS)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error


def upright(image: Image.Image) -> Image.Image:
    """Decodes an opened image as a person sees it: mode "RGB".

    Raises:
        ImageError: it is not an image that the server would take.
    """
    flat = decode.load_flat(image, grey=False).convert("RGB")
    turned = decode.orientation(image)
    return flat.transpose(decode.UPRIGHT[turned]) if turned in decode.UPRIGHT else flat


def _spread(paths: list[Path], most: int) -> list[Path]:
    """At most so many, evenly from the first to the last."""
    if len(paths) <= most:
        return paths
    return [paths[place * len(paths) // most] for place in range(most)]
