"""What the command line says of a network of the user's own: its task, its input and what is done to the pixels."""

import math
import re
from enum import StrEnum

import numpy as np
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_export.nms import Suppression
from retinue_export.packaging import Normalisation
from retinue_export.user_answer import DEFAULT_SCORE_THRESHOLD, Answer
from retinue_server.bundle.manifest import MAX_INPUT_SIDE, MAX_REGIONS
from retinue_server.vision.spec import InputSpec, ResizeMode

_MOST_DETECTIONS = 10_000
"""Far more than anyone looks at, and as many as memory holds."""
_SIZE_PATTERN = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")


class Task(StrEnum):
    """What a network answers."""

    CLASSIFY = "classify"
    SEGMENT = "segment"
    DETECT = "detect"

    @property
    def in_manifest(self) -> pb.Task.ValueType:
        """The same as a manifest says it."""
        return pb.Task.Value(f"TASK_{self.name}")


class Interpolation(StrEnum):
    """Filters of resizing; Pillow's, of the same name."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    NEAREST = "nearest"

    @property
    def resample(self) -> Image.Resampling:
        """The same as Pillow says it."""
        return Image.Resampling[self.name]


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
    if pad_value and resize is not ResizeMode.LETTERBOX:
        raise ExportError(f"--pad-value has no meaning with --resize {resize}.")
    spec = InputSpec(
        height=height,
        width=width,
        grey=grey,
        resize_mode=resize,
        resample=interpolation.resample,
        shorter_side=shorter_side,
        pad_value=pad_value,
    )
    means, deviations = _levels("--mean", mean, spec.channels), _levels("--std", std, spec.channels)
    if min(deviations) <= 0:
        raise ExportError(f"--std {std} must be greater than 0.")
    normalisation = Normalisation(means, deviations)
    if not _tells_levels_apart(normalisation):
        raise ExportError(f"With --mean {mean} and --std {std} nothing of an image is left in 32-bit floats.")
    return spec, normalisation


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


def parse_answer(
    task: Task,
    max_detections: int | None,
    min_score: float | None,
    iou_threshold: float | None,
    score_threshold: float | None,
    regions: int | None,
) -> Answer:
    """Reads the options of what a network answers, of which all but the task are a detector's; None where not given.

    Args:
        task: the network's.
        max_detections: see `Suppression`, as the next two.
        min_score: in [0, 1).
        iou_threshold: in [0, 1].
        score_threshold: see `Answer`; by default 0.5, or `min_score` where that is higher.
        regions: see `Answer`.

    Raises:
        ExportError: an option has no meaning, or is out of its range.
    """
    given = {
        "--max-detections": max_detections,
        "--min-score": min_score,
        "--iou-threshold": iou_threshold,
        "--score-threshold": score_threshold,
        "--regions": regions,
    }
    for option, value in given.items():
        if value is None:
            continue
        if task is not Task.DETECT:
            raise ExportError(f"{option} has no meaning with --task {task}.")
        most = MAX_REGIONS if option == "--regions" else _MOST_DETECTIONS
        if isinstance(value, int) and not 1 <= value <= most:
            raise ExportError(f"{option} {value} must be 1 to {most}.")
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ExportError(f"{option} {value:g} must be 0 to 1.")
    usual = Suppression()
    suppression = Suppression(
        usual.max_detections if max_detections is None else max_detections,
        usual.min_score if min_score is None else min_score,
        usual.iou_threshold if iou_threshold is None else iou_threshold,
    )
    if score_threshold is None:
        score_threshold = max(DEFAULT_SCORE_THRESHOLD, suppression.min_score)
    if not suppression.min_score < 1:
        raise ExportError("--min-score 1 leaves no detection: scores must be higher.")
    if score_threshold < suppression.min_score:
        raise ExportError(
            f"--score-threshold {score_threshold:g} is below --min-score {suppression.min_score:g}: "
            "what the graph drops cannot be returned."
        )
    return Answer(task.in_manifest, suppression, score_threshold, regions or 0)


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


def _tells_levels_apart(normalisation: Normalisation) -> bool:
    """Whether neighbouring levels of every channel are different, finite numbers in float32."""
    levels = np.arange(256, dtype=np.float32)[:, np.newaxis] / np.float32(255)
    with np.errstate(all="ignore"):
        mean = np.array(normalisation.mean).astype(np.float32)
        deviation = np.array(normalisation.deviation).astype(np.float32)
        normalised = (levels - mean) / deviation
    return bool(np.isfinite(normalised).all() and (np.diff(normalised, axis=0) > 0).all())
