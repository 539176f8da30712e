"""Memory for decoded pixels: what an image takes while it is decoded, and waiting for room for it.

A file of a few kilobytes may hold as many pixels as are accepted, so what decoding takes has little to do with the
bytes of requests.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image

from retinue_server.errors import ImageError
from retinue_server.vision.readers import InputPixels, Opened, RawPixels
from retinue_server.vision.spec import InputSpec

# The most resident memory seen per pixel of the worst image of each kind, rounded up (docs/limits.md has the
# readings): Pillow keeps colours in four bytes; transparency is laid on white beside the original; libjpeg keeps two
# bytes a sample of what comes in several scans; libwebp decodes into a canvas of its own first.
_PLAIN: Final = 9
_LAYERED: Final = 13
_BY_FORMAT: Final[dict[str, int]] = {"PNG": 13, "GIF": 13, "BMP": 9, "WEBP": 17, "TIFF": 17}
_CUT: Final = 4  # a part of all of it, once more and once turned, while the original is there
_MOST: Final = 17
_BYTES_A_COEFFICIENT: Final = 2
_RESIZED_PIXEL: Final = 4


def decoding_bytes(image: Opened, spec: InputSpec, *, whole: bool = False, stored_pixels: int = 0) -> int:
    """The most memory that decoding an opened image and rendering it takes; 0 where its pixels are there already.

    Args:
        image: Not decoded yet; where it is to be decoded small, told so already.
        spec: What it becomes.
        whole: Whether parts are cut out of it at its full size.
        stored_pixels: How many it has in its file, where it is to be decoded small.
    """
    if isinstance(image, InputPixels):
        return 0
    width, height = image.size
    bytes_a_pixel, kept_bytes = _bytes_a_pixel(image, stored_pixels or width * height)
    if not bytes_a_pixel:
        return 0
    if whole:
        bytes_a_pixel = min(bytes_a_pixel + _CUT, _MOST)
    # Rows are made narrow or wide first, all of them: of a high and narrow image that is more than it has itself.
    between_bytes = _RESIZED_PIXEL * max(spec.width, spec.height) * max(width, height)
    return bytes_a_pixel * width * height + kept_bytes + between_bytes


def _bytes_a_pixel(image: Image.Image | RawPixels, stored_pixels: int) -> tuple[int, int]:
    """What a decoded pixel takes, and what is kept of the file besides."""
    if isinstance(image, RawPixels):
        return _LAYERED if image.order == "RGBA" else _PLAIN, 0
    if image.format == "JPEG":
        layers = getattr(image, "layers", 4)
        coefficients = stored_pixels * layers * _BYTES_A_COEFFICIENT
        is_buffered = getattr(image, "has_many_scans", True)
        return _LAYERED if layers > 3 else _PLAIN, coefficients if is_buffered else 0
    return _BY_FORMAT.get(image.format or "", 0), 0


class Room:
    """Bounds what all images take that are being decoded at once; those that find no room wait their turn.

    Attributes:
        max_bytes: The bound; 0 for none.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self._taken_bytes = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def taken_bytes(self) -> int:
        """What is taken now."""
        return self._taken_bytes

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Waits for so much room, and has it meanwhile. Whoever has some must not ask for more.

        Raises:
            ImageError: It is more than there ever is.
        """
        if self.max_bytes and size_bytes > self.max_bytes:
            raise ImageError(
                f"To decode the image takes up to {size_bytes} bytes, and at most {self.max_bytes} are set aside for "
                "that. Send a smaller one, or save it as an ordinary JPEG.",
                reason="IMAGE_TOO_LARGE",
            )
        if size_bytes:
            self._take(size_bytes)
        try:
            yield
        finally:
            if size_bytes:
                self._give(size_bytes)

    def _take(self, size_bytes: int) -> None:
        with self._changed:
            if not self._waiting and self._fits(size_bytes):
                self._taken_bytes += size_bytes
                return
            # In order: else a large image might wait for ever behind small ones.
            turn = object()
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size_bytes))
            self._waiting.popleft()
            self._taken_bytes += size_bytes
            # The next one may fit, too.
            self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        return not self.max_bytes or self._taken_bytes + size_bytes <= self.max_bytes

    def _give(self, size_bytes: int) -> None:
        with self._changed:
            self._taken_bytes -= size_bytes
            if self._waiting:
                self._changed.notify_all()


ROOM: Final = Room()
"""The process's, since its memory is one. Without a bound until a server sets one."""
