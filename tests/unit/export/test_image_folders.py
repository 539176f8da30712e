"""Folders of the user's images: read as the server reads, and refused with the name of what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.export import tiny

from retinue_export import image_folders
from retinue_export.errors import ExportError


def fill(folder: Path, count: int) -> Path:
    """Grey images, each brighter than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (12, 16), (number, number, number)).save(folder / f"{number:03}.png")
    return folder


def levels(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_every_fourth_image_is_held_back(tmp_path: Path) -> None:
    read = image_folders.calibration(fill(tmp_path / "photos", 9), tiny.SPEC)
    assert read.folder == "photos"
    assert levels(read.held_back) == [0, 4, 8]
    assert levels(read.images) == [1, 2, 3, 5, 6, 7]
    assert read.images.shape[1:] == (8, 6, 3)


def test_of_many_images_some_from_everywhere_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folders, "MOST_CALIBRATION_IMAGES", 3)
    read = image_folders.calibration(fill(tmp_path / "photos", 16), tiny.SPEC)
    assert levels(read.images) == [1, 6, 11]


def test_folders_below_are_read_and_what_is_no_image_or_hidden_is_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "cats", 8)
    fill(tmp_path / "photos" / ".thumbnails", 3)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    read = image_folders.calibration(tmp_path / "photos", tiny.SPEC)
    assert len(read.images) + len(read.held_back) == 8


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_images_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ExportError, match=f"has {count} images, and calibration needs at least 8"):
        image_folders.calibration(fill(tmp_path / "photos", count), tiny.SPEC)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no folder"):
        image_folders.calibration(tmp_path / "photos", tiny.SPEC)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 9)
    (folder / "004.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then something else")
    with pytest.raises(ExportError, match=r"004\.png cannot be used, take it out of the folder"):
        image_folders.calibration(folder, tiny.SPEC)
