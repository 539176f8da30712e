"""The files that the command line reads and writes."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from retinue_client._errors import ImageError, RetinueError
from retinue_client._images import file_error, read_file, read_stream
from retinue_client._score.sources.tree import LocalTree
from retinue_client._score.sources.walk import looks_like_image, walk
from retinue_client.cli._exit import complain, fail

STANDARD_INPUT = "-"


def read_image(name: str) -> bytes | ImageError:
    """The bytes of an image named on the command line, or why there are none."""
    try:
        return _read_standard_input() if name == STANDARD_INPUT else read_file(name)
    except ImageError as error:
        return error


def images_inside(folder: str) -> list[str]:
    """The images in a folder.

    Raises:
        typer.Exit: It cannot be listed, or has none.
    """
    try:
        entries = list(walk(LocalTree(Path(folder)), wanted=looks_like_image))
    except OSError as exc:
        fail(f"{folder}: {exc.strerror or exc}.")
    if not entries:
        fail(f"{folder}: the folder has no images.")
    return [str(Path(folder) / entry.path) for entry in entries]


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise ImageError("Standard input is closed.", source=STANDARD_INPUT, reason="FILE_UNREADABLE")
    try:
        return read_stream(sys.stdin.buffer, STANDARD_INPUT)
    except OSError as exc:
        raise file_error(exc, STANDARD_INPUT) from exc


def plan_outputs(
    option: str, out: str | None, images: list[str], *, suffixes: frozenset[str] | None = None
) -> list[Path | None]:
    """Where to write a picture for each image. Creates the folder that several images need.

    Args:
        option: The option's name, for messages.
        out: Its value: a file for one image, a folder for several. None writes nothing.
        images: The images as named on the command line.
        suffixes: The file formats that will do; None means all that Pillow writes.

    Returns:
        A path for each image, no two of them the same, or None for each where nothing is written.

    Raises:
        typer.Exit: `out` is a file for several images, or cannot be written as named.
    """
    if out is None:
        return [None] * len(images)
    path = Path(out)
    writable = suffixes or _suffixes_pillow_writes()
    try:
        if len(images) == 1 and not path.is_dir():
            if path.suffix.lower() not in writable:
                fail(f"{option}: {out!r} does not name a picture: end it in .png.")
            if not path.parent.is_dir():
                fail(f"{option}: there is no folder {str(path.parent)!r}.")
            return [path]
        if path.suffix.lower() in writable or (path.exists() and not path.is_dir()):
            fail(f"{option}: {out!r} is a file, and {len(images)} images need a folder.")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        fail(f"{option}: {out!r} cannot be created: {exc.strerror}.")
    return [path / name for name in _distinct_names(images)]


def save_picture(paint: Callable[[], Image.Image], path: Path, option: str) -> bool:
    """Paints a picture and writes it; where that fails, says why, leaves no new file and returns False."""
    try:
        picture = paint()
    except RetinueError as error:
        # The server reads formats that this machine's Pillow may lack.
        complain(f"{option}: {str(path)!r} cannot be drawn: {error.message}")
        return False
    except Exception as exc:  # whatever Pillow and NumPy trip over, want of memory included
        complain(f"{option}: {str(path)!r} cannot be drawn: {_reason(exc)}.")
        return False
    was_there = os.path.lexists(path)
    try:
        picture.save(path)
    except Exception as exc:  # whatever a format's writer trips over: a size or mode that it does not know
        complain(f"{option}: {str(path)!r} cannot be written: {_reason(exc)}.")
        if not was_there:
            with suppress(OSError):
                path.unlink()
        return False
    return True


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _suffixes_pillow_writes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE)


def _distinct_names(images: list[str]) -> list[str]:
    """A PNG file name for each image: its own stem, with a number where several have the same."""
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        stem = "stdin" if image == STANDARD_INPUT else Path(image).stem or "image"
        name, number = f"{stem}.png", 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name.lower())
        names.append(name)
    return names
