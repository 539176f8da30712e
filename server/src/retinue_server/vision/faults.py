"""The one place where Pillow's exceptions become ImageError, and where its warnings end.

Pillow raises whatever its parsers trip over, and not one documented class. The table below names all that its
readers of JPEG, PNG, WebP, BMP, TIFF and GIF raise on hostile bytes.
"""

import ctypes
import logging
import re
import struct
import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import PIL
from PIL import Image

from retinue_server.errors import ImageError

_UNREADABLE: Final = (
    "The {} image cannot be read: it is damaged, incomplete or of an unusual kind. "
    "Send the whole file, or save it again as an ordinary JPEG or PNG."
)
_NO_MEMORY: Final = "The {} image is too large to be decoded in the memory there is. Send a smaller one."

# First match wins, so subclasses stand above their bases.
_TABLE: Final[tuple[tuple[tuple[type[Exception], ...], str, str], ...]] = (
    ((MemoryError, Image.DecompressionBombError), "IMAGE_TOO_LARGE", _NO_MEMORY),
    (
        (
            ArithmeticError,  # OverflowError of huge sizes, ZeroDivisionError of rational tags
            AssertionError,  # Pillow asserts what a broken file does not keep
            AttributeError,
            BufferError,
            EOFError,
            LookupError,  # IndexError and KeyError
            OSError,  # with UnidentifiedImageError
            RuntimeError,  # with NotImplementedError and RecursionError
            SyntaxError,
            TypeError,
            ValueError,  # with UnicodeError
            struct.error,
            zlib.error,
        ),
        "IMAGE_UNDECODABLE",
        _UNREADABLE,
    ),
)
_CAUGHT: Final = tuple(kind for kinds, _, _ in _TABLE for kind in kinds)

_SILENCE: Final = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def pillow_faults(image_format: str) -> Iterator[None]:
    """Turn what Pillow raises on the bytes of one image into ImageError; the original stays its cause.

    Only calls whose outcome depends on the caller's bytes belong inside: the table would hide a mistake of
    ours.

    Args:
        image_format: The format's name for the message.

    Raises:
        ImageError: IMAGE_UNDECODABLE or IMAGE_TOO_LARGE.
    """
    try:
        yield
    except _CAUGHT as exc:
        for kinds, reason, message in _TABLE:
            if isinstance(exc, kinds):
                raise ImageError(message.format(image_format), reason=reason) from exc
        raise


def release_frames(error: BaseException) -> None:
    """Empty the variables of the frames that an error went through, and those of what led to it.

    An error may be kept long after its image is done with, and each of its frames holds on to what the
    function worked on: the image, its decoder, arrays of its levels. Lines and names stay for the log. Frames
    that still run are left alone.
    """
    errors: list[BaseException | None] = [error]
    seen = set()
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        errors += (one.__cause__, one.__context__)


def silence_pillow() -> None:
    """Make what Pillow and libtiff say about damaged files vanish: the caller is told by ImageError.

    `warnings.catch_warnings` is not safe in threads, so the filter stays: it touches only warnings raised in
    Pillow's own modules (deprecations are attributed to the caller's). It is put in front again where
    someone, such as `-W error` or pytest, has put another before it.
    """
    _silence_logging()
    if warnings.filters[:1] != [_SILENCE]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def _silence_logging() -> None:
    """Stop Pillow's logger, and libtiff's habit of writing to the process's standard error."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # The library that Pillow's wheels bring along. Where Pillow was built otherwise, libtiff stays talkative.
    for library in Path(PIL.__file__).parent.parent.glob("pillow.libs/libtiff*"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
