"""What is sent: requests made ready once, so that sending one again and again costs as little as can be."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_client._calls import Call
from retinue_client._errors import InvalidRequestError
from retinue_client._images import WithRegions, fill_image, open_upright

_QUALITY = 90
# How rough each octave of a picture is beside the one before it. Photos have about as much contrast at every scale.
_ROUGHNESS = 0.72
# Every process has them in memory.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as bytes.

    Attributes:
        body: The serialised message.
        images: How many images it has.
    """

    body: bytes
    images: int


def prepare(
    call: Call[Any],
    files: list[bytes],
    images_per_request: int,
    *,
    raw: bool,
    regions: list[tuple[float, ...]],
) -> list[Prepared]:
    """As few requests as have every image in them; the last one is filled up with the first images.

    Args:
        call: The question.
        files: The images' files.
        images_per_request: How many images a request has.
        raw: Whether to send the images' pixels, as a person sees them, instead of their files.
        regions: Where to look in each of them, or empty.

    Raises:
        ImageError: One of the images cannot be sent.
        InvalidRequestError: All of this is more than memory should be asked for.
    """
    requests = []
    size_bytes = 0
    for start in range(0, len(files), images_per_request):
        message = call.new_request()
        for place in range(start, start + images_per_request):
            file = files[place % len(files)]
            image = open_upright(file) if raw else file
            source = WithRegions(image, regions) if regions else image
            size_bytes += fill_image(message.images.add(), source)
            if size_bytes > _MOST_BYTES:
                raise InvalidRequestError(
                    f"The requests take more than {_MOST_BYTES >> 20:,} MiB: name fewer or smaller images, or ask "
                    "about fewer in a request."
                )
        requests.append(Prepared(message.SerializeToString(), images_per_request))
    return requests


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG file that takes about as much to decode as a photo of its size: noise of all scales, in related colours.

    Args:
        width: Columns.
        height: Rows.
        seed: The same seed gives the same picture.
    """
    chance = np.random.default_rng(seed)
    light = _noise(chance, width, height, finest=1)
    # The colours of a photo change less than its brightness.
    red, blue = (_noise(chance, width, height, finest=8) for _ in range(2))
    levels = np.stack([light + 0.5 * red, light, light + 0.5 * blue], axis=2)
    levels = 128 + 52 * levels / max(levels.std(), 1e-6)
    picture = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _noise(chance: np.random.Generator, width: int, height: int, *, finest: int) -> npt.NDArray[np.float32]:
    """Noise [height, width] of every scale from the whole picture down to `finest` pixels."""
    total = np.zeros((1, 1), np.float32)
    scale, weight = 1 << max(width, height).bit_length(), 1.0
    while scale >= finest:
        # Each octave is laid on the one before it while that is small, which costs least for large pictures.
        size = (-(-width // scale), -(-height // scale))
        total = _resized(total, size) + np.float32(weight) * chance.standard_normal(size[::-1], np.float32)
        scale, weight = scale // 2, weight * _ROUGHNESS
    return _resized(total, (width, height))


def _resized(levels: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC), np.float32)
