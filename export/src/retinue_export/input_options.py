"""What the command line says of a network of the user's own: its task, its input and what is done to the pixels."""

import math
import re
from enum import StrEnum

from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation
from retinue_server.bundle.manifest import MAX_INPUT_SIDE
from retinue_server.vision.spec import InputSpec, ResizeMode

_SIZE_PATTERN = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


class UserTask(StrEnum):
    """What a module answers."""

    CLASSIFY = "classify"
    SEGMENT = "segment"

    @property
    def in_manifest(self) -> pb.Task.ValueType:
        """The same as a manifest says it."""
        return pb.Task.Value(f"TASK_{self.name}")


class Interpolation(StrEnum):
    """Filters of resizing; Pillow's, of the same name."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    NEAREST = "nearest"


def parse(
    size: str,
    mean: str,
    std: str,
    grey: bool,
    resize: ResizeMode,
    shorter_side: int,
    interpolation: Interpolation,
    pad_value: int,
) -> tuple[InputSpec, Normalisation]:
    """Reads the options of a network's input.

    Args:
        size: "224", or "240x320", height before width.
        mean: one number a channel, of levels in [0, 1], with commas between.
        std: likewise, greater than 0.
        grey: see `InputSpec`, as all that follow.
        resize: the geometry.
        shorter_side: in pixels.
        interpolation: the filter.
        pad_value: a grey level, 0 to 255.

    Raises:
        ExportError: an option cannot be read, or two of them do not fit together.
    """
    height, width = parse_size(size)
    crops = resize is ResizeMode.SHORTER_SIDE_CENTER_CROP
    if crops and not max(height, width) <= shorter_side <= MAX_INPUT_SIDE:
        raise ExportError(
            f"--resize {resize} needs --shorter-side of {max(height, width)} to {MAX_INPUT_SIDE} pixels."
        )
    if shorter_side and not crops:
        raise ExportError(f"--shorter-side has no meaning with --resize {resize}.")
    spec = InputSpec(
        height=height,
        width=width,
        grey=grey,
        resize_mode=resize,
        resample=Image.Resampling[interpolation.name],
        shorter_side=shorter_side,
        pad_value=pad_value,
    )
    means, deviations = _levels("--mean", mean, spec.channels), _levels("--std", std, spec.channels)
    if min(deviations) <= 0:
        raise ExportError(f"--std {std} must be greater than 0.")
    return spec, Normalisation(means, deviations)


def parse_size(size: str) -> tuple[int, int]:
    """Reads "224", or "240x320": height and width.

    Raises:
        ExportError: it is no size.
    """
    matched = _SIZE_PATTERN.fullmatch(size)
    height, width = (int(matched[1]), int(matched[2] or matched[1])) if matched else (0, 0)
    if not (1 <= height <= MAX_INPUT_SIDE and 1 <= width <= MAX_INPUT_SIDE):
        raise ExportError(
            f"--size {size} is no size: give 224, or 240x320 (height x width), up to {MAX_INPUT_SIDE}."
        )
    return height, width


def _levels(option: str, text: str, channels: int) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if len(levels) != channels or not all(map(math.isfinite, levels)):
        raise ExportError(
            f"{option} {text} is not {channels} number{'s' * (channels > 1)} with commas between."
        )
    return levels
