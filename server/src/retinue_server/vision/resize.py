"""From pixels of any size to a network's input, and the map between the two.

Coordinates are continuous: origin in the top left corner, x to the right, y down, pixel i covers i to i + 1.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from retinue_server.vision.decode import UPRIGHT, load_flat, orientation
from retinue_server.vision.faults import pillow_faults, release_frames
from retinue_server.vision.readers import InputPixels, Opened, RawPixels
from retinue_server.vision.room import ROOM, decoding_bytes
from retinue_server.vision.spec import InputSpec, ResizeMode

_Box = tuple[float, float, float, float]

# From which EXIF orientation on an image must be turned before it is resized, since the filter does not
# commute with turning: nearest neighbour decides ties towards one side, and a cubic filter overshoots and is
# clipped after its horizontal pass, which 5 to 8 make the vertical one.
_TURNED_FIRST: Final = {Image.Resampling.NEAREST: 2, Image.Resampling.BICUBIC: 5}

# The widest filter's reach in source pixels, before it is stretched to antialias.
_FILTER_SUPPORT: Final = 2
# To resize more of a tall image than is shown is not worth more than this.
_MAX_TALL_PIXELS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a network's input lies in the original image: input = original * scale + offset.

    Attributes:
        original_width: Width in pixels of the image as a person sees it.
        original_height: Its height.
        input_width: Width in pixels of the input.
        input_height: Its height.
        scale_x: Input pixels an original pixel is wide.
        scale_y: Input pixels an original pixel is high.
        offset_x: The original's left edge in input pixels; negative where a crop cut it off.
        offset_y: Its top edge.
        valid: Left, top, right and bottom of the part of the input that shows the image, in whole input
            pixels; around it is padding.
    """

    original_width: int
    original_height: int
    input_width: int
    input_height: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    valid: tuple[int, int, int, int]

    @property
    def shows_the_whole_unscaled(self) -> bool:
        """Whether the input is the original, pixel by pixel."""
        return (self.original_width, self.original_height) == (self.input_width, self.input_height) and (
            self.scale_x,
            self.scale_y,
            self.offset_x,
            self.offset_y,
        ) == (1, 1, 0, 0)


def prepare(image: Opened, spec: InputSpec, out: npt.NDArray[np.uint8]) -> Frame:
    """Decode an opened image and render it, upright and opaque, as a network's input.

    The image is turned upright after it was made small, which changes a grey level by one at most, and a
    large JPEG is decoded small where the spec allows it. A grey image is repeated into each channel of a
    colour input.

    Args:
        image: From `open_encoded` or `open_raw`, any Pillow image, or the input itself. It is used up: its pixels are
            released, also where an error comes out.
        spec: What the network wants.
        out: uint8 [height, width, channels] of the spec, any strides. All of it is written.

    Returns:
        The map to the original image, which is the whole one, upright, also where it was decoded small.

    Raises:
        ImageError: IMAGE_UNDECODABLE or IMAGE_TOO_LARGE.
    """
    try:
        return _prepare(image, spec, out)
    except Exception as error:
        release_frames(error)
        raise
    finally:
        image.close()


def _prepare(image: Opened, spec: InputSpec, out: npt.NDArray[np.uint8]) -> Frame:
    if isinstance(image, InputPixels):
        out[:] = image.pixels
        return _whole_input(spec)
    if isinstance(image, RawPixels):
        if image.order == ("GRAY" if spec.grey else "RGB"):
            frame = frame_for(*image.size, spec)
            if frame.shows_the_whole_unscaled:
                # As it would come out below, without a detour through Pillow's own layout.
                out[:] = np.frombuffer(image.data, np.uint8).reshape(out.shape)
                return frame
        with ROOM.taken(decoding_bytes(image, spec)):
            with pillow_faults("raw"):
                image = image.to_pillow()
            return _rendered(image, None, spec, out)
    width, height = image.size
    drafted = _draft(image, spec) if spec.draft_decoding else None
    with ROOM.taken(decoding_bytes(image, spec, stored_pixels=width * height)):
        return _rendered(image, drafted, spec, out)


def _rendered(
    image: Image.Image,
    drafted: tuple[tuple[int, int], tuple[float, float]] | None,
    spec: InputSpec,
    out: npt.NDArray[np.uint8],
) -> Frame:
    flat = load_flat(image, grey=spec.grey)
    turned = orientation(image)
    if drafted is None and turned >= _TURNED_FIRST.get(spec.resample, 9):
        flat, turned = flat.transpose(UPRIGHT[turned]), 1
    stored_size, content_size = drafted or (flat.size, flat.size)
    upright_size = stored_size if turned < 5 else stored_size[::-1]
    frame = frame_for(*upright_size, spec)
    _render(flat, turned, content_size, frame, spec, out)
    # While there is room for its pixels.
    image.close()
    return frame


@lru_cache(maxsize=256)
def _whole_input(spec: InputSpec) -> Frame:
    """The map to an image that is the input itself."""
    width, height = spec.width, spec.height
    return Frame(width, height, width, height, 1.0, 1.0, 0.0, 0.0, (0, 0, width, height))


@lru_cache(maxsize=256)
def frame_for(width: int, height: int, spec: InputSpec) -> Frame:
    """The map between an upright image of this size and a network's input.

    Source: SHORTER_SIDE_CENTER_CROP is torchvision's Resize and CenterCrop
    (torchvision.transforms.functional._compute_resized_output_size and center_crop).
    """
    if spec.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP:
        long_side = int(spec.shorter_side * max(width, height) / min(width, height))
        resized = (spec.shorter_side, long_side) if width <= height else (long_side, spec.shorter_side)
        left = -round((resized[0] - spec.width) / 2)
        top = -round((resized[1] - spec.height) / 2)
        valid = (0, 0, spec.width, spec.height)
    elif spec.resize_mode is ResizeMode.LETTERBOX:
        scale = min(spec.width / width, spec.height / height)
        resized = (
            min(max(round(width * scale), 1), spec.width),
            min(max(round(height * scale), 1), spec.height),
        )
        left = (spec.width - resized[0]) // 2
        top = (spec.height - resized[1]) // 2
        valid = (left, top, left + resized[0], top + resized[1])
    else:
        resized, left, top = (spec.width, spec.height), 0, 0
        valid = (0, 0, spec.width, spec.height)
    return Frame(
        original_width=width,
        original_height=height,
        input_width=spec.width,
        input_height=spec.height,
        scale_x=resized[0] / width,
        scale_y=resized[1] / height,
        offset_x=float(left),
        offset_y=float(top),
        valid=valid,
    )


def _draft(image: Image.Image, spec: InputSpec) -> tuple[tuple[int, int], tuple[float, float]] | None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 where the resized image needs no more pixels than that.

    Returns:
        The stored size at full scale, and the size of the content at the chosen one, in pixels and fractions
        of them: the right and lower edge may end within a pixel. None where nothing was changed.
    """
    if spec.resample is Image.Resampling.NEAREST:
        return None
    width, height = image.size
    turned = orientation(image) >= 5
    frame = frame_for(height, width, spec) if turned else frame_for(width, height, spec)
    wanted = (
        math.ceil(frame.original_width * frame.scale_x),
        math.ceil(frame.original_height * frame.scale_y),
    )
    drafted = image.draft("L" if spec.grey else None, wanted[::-1] if turned else wanted)
    return None if drafted is None else ((width, height), drafted[1][2:])


def _render(
    flat: Image.Image,
    turned: int,
    content_size: tuple[float, float],
    frame: Frame,
    spec: InputSpec,
    out: npt.NDArray[np.uint8],
) -> None:
    """Cut, scale, turn and write.

    Only what the input shows is resized: the filter is given the cut's box in source pixels. That costs half
    of resizing all and cutting then. Pillow keeps the box in 32-bit floats, so where a level is half way
    between two it may be rounded the other way: one grey level, and on white noise two in one of 10,000.

    Args:
        flat: The stored pixels, mode "RGB" or "L".
        turned: The EXIF orientation of the stored pixels, 1 to 8.
        content_size: Width and height of the image within the stored pixels.
        frame: Of the upright image at its full size.
        spec: What the network wants.
        out: uint8 [height, width, channels].
    """
    if out.shape != (spec.height, spec.width, spec.channels) or out.dtype != np.uint8:
        raise ValueError(
            f"out is {out.dtype} {out.shape}, not uint8 {(spec.height, spec.width, spec.channels)}"
        )
    left, top, right, bottom = frame.valid
    size = (right - left, bottom - top) if turned < 5 else (bottom - top, right - left)
    box = _stored_box(frame, turned, content_size)
    full_size = round(frame.original_width * frame.scale_x), round(frame.original_height * frame.scale_y)
    is_tall = flat.height > 2 * flat.width and full_size[1] < flat.height
    if is_tall and turned == 1 and flat.size == content_size and math.prod(full_size) < _MAX_TALL_PIXELS:
        # Pillow 13 and later resizes such images down the columns first, as far as is known. A cut would not
        # look tall to it.
        x, y = round(-frame.offset_x) + left, round(-frame.offset_y) + top
        small = flat.resize(full_size, spec.resample).crop((x, y, x + size[0], y + size[1]))
    else:
        small = _resized(flat, size, spec.resample, box)
    if turned != 1:
        small = small.transpose(UPRIGHT[turned])
    if (right - left, bottom - top) != (spec.width, spec.height):
        out.fill(spec.pad_value)
    # Pillow keeps four bytes a colour pixel, so it must pack them into bytes once and NumPy copy these once;
    # its own array interface does the same with more steps.
    pixels = np.frombuffer(small.tobytes(), np.uint8)
    out[top:bottom, left:right] = pixels.reshape(bottom - top, right - left, 1 if small.mode == "L" else 3)


def _resized(flat: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: _Box) -> Image.Image:
    """Scale a box of an image along the rows first and then down the columns, as Pillow scales whole images.

    Which way comes first decides what is rounded, and for cubic filters clipped, in between. Pillow 13 judges
    by the height and width of the whole image and not of the box, and would take the box of a portrait
    picture for a tall image. So where its choice is open, it gets one direction at a time.
    """
    width, height = flat.size
    x0, y0, x1, y1 = box
    if box == (0, 0, width, height):
        return flat if flat.size == size else flat.resize(size, resample)
    if resample is Image.Resampling.NEAREST or height - size[1] <= max(width - size[0], 0):
        return flat.resize(size, resample, box=box)
    margin = _FILTER_SUPPORT * max((y1 - y0) / size[1], 1) + 1
    first, last = max(math.floor(y0 - margin), 0), min(math.ceil(y1 + margin), height)
    rows = flat.crop((0, first, width, last))
    across = rows.resize((size[0], last - first), resample, box=(x0, 0, x1, last - first))
    return across.resize(size, resample, box=(0, y0 - first, size[0], y1 - first))


def _stored_box(frame: Frame, turned: int, content_size: tuple[float, float]) -> _Box:
    """The part of the stored pixels that the valid part of the input shows: left, top, right, bottom."""
    content_width, content_height = content_size
    upright_width, upright_height = content_size if turned < 5 else content_size[::-1]
    across, down = upright_width / frame.original_width, upright_height / frame.original_height
    left, top, right, bottom = frame.valid
    x0 = max((left - frame.offset_x) / frame.scale_x * across, 0.0)
    y0 = max((top - frame.offset_y) / frame.scale_y * down, 0.0)
    x1 = min((right - frame.offset_x) / frame.scale_x * across, upright_width)
    y1 = min((bottom - frame.offset_y) / frame.scale_y * down, upright_height)
    if turned >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if turned in (2, 3, 7, 8):
        x0, x1 = content_width - x1, content_width - x0
    if turned in (3, 4, 6, 7):
        y0, y1 = content_height - y1, content_height - y0
    return x0, y0, x1, y1
