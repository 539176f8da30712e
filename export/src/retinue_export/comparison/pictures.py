"""The images that bundles are compared on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from retinue_export import image_folders
from retinue_export.errors import ExportError
from retinue_export.inputs import MAX_PIXELS, sample_photos
from retinue_server.errors import ImageError
from retinue_server.vision import decode


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file.

    Attributes:
        name: for people.
        read: gives its bytes, or raises ImageError.
    """

    name: str
    read: Callable[[], bytes]

    def open(self) -> Image.Image:
        """Opens it as the server does; `prepare` uses up what this gives.

        Raises:
            ImageError: it is not an image that the server would take.
        """
        return decode.open_encoded(self.read(), max_pixels=MAX_PIXELS)

    def upright(self) -> Image.Image:
        """Decodes it as a person sees it: mode "RGB".

        Raises:
            ImageError: likewise.
        """
        return image_folders.upright(self.open())


def from_folder(folder: Path) -> list[Picture]:
    """All image files in a folder and the folders in it, in the order of their names.

    Raises:
        ExportError: there is no such folder, or no image file in it.
    """
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder}: give --images a folder of image files.")
    found = image_folders.images_below(folder)
    if not found:
        raise ExportError(
            f"There is no image in {folder}: files are taken whose names end in "
            f"{', '.join(sorted(image_folders.SUFFIXES))}."
        )
    return [Picture(path.relative_to(folder).as_posix(), partial(_read, path)) for path in found]


def samples() -> list[Picture]:
    """The sample images of scikit-image and scikit-learn."""
    return [Picture(name, lambda data=data: data) for name, data in sample_photos().items()]  # type: ignore[misc]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"The file cannot be read: {error.strerror}.") from error
