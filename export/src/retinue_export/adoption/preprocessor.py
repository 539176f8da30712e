"""Hugging Face's preprocessor_config.json: how images are prepared.

Source: transformers, `models/*/image_processing_*.py` and `image_processing_utils.get_size_dict`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from retinue_export.adoption.literals import integers, number
from retinue_export.input_options import Interpolation
from retinue_server.vision.spec import ResizeMode

_RESAMPLING = {0: Interpolation.NEAREST, 2: Interpolation.BILINEAR, 3: Interpolation.BICUBIC}
"""Pillow's numbers; the others are filters that no manifest can say."""
_MOBILEVIT = "MobileViT"
_SHORTER_SIDE_KINDS = (
    *("CLIP", "ConvNext", "MobileNetV", "PoolFormer", "Bit", "Levit", "EfficientFormer"),
    _MOBILEVIT,
)
"""Whose old files mean the shorter side where `size` is a number; all others mean both."""
_LEAST_UNCROPPED = 384
"""From this size on ConvNeXt's images are not cropped."""
_LEVIT_ENLARGEMENT = 256 / 224
_LEAST_SHARE = 0.01
"""Of the shorter side in what it is scaled to before the crop; less is a mistake."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What such a file says; None where it does not say it, or says what no manifest can.

    Attributes:
        facts: size, resize, shorter_side, interpolation, mean, std, bgr, as `Facts.learn` takes them.
        notes: what it says that no manifest can.
    """

    facts: Mapping[str, object]
    notes: tuple[str, ...]


def read(config: Mapping[str, object], channels: int) -> Preparation:
    """Reads the content of a preprocessor_config.json, for a network that takes images of so many channels."""
    told = config.get("image_processor_type") or config.get("feature_extractor_type")
    kind = told if isinstance(told, str) else ""
    notes: list[str] = []
    facts = _geometry(config, kind, notes)
    resample = config.get("resample", 2)
    facts["interpolation"] = _RESAMPLING.get(resample) if isinstance(resample, int) else None
    if facts["interpolation"] is None:
        shown = f", resample {resample}," if isinstance(resample, int | str) else ""
        notes.append(f"its filter{shown} is none of {', '.join(Interpolation)}")
    facts.update(_levels(config, kind, channels, notes))
    if config.get("do_flip_channel_order", kind.startswith(_MOBILEVIT)):
        facts["bgr"] = True
    return Preparation(facts, tuple(notes))


def _geometry(config: Mapping[str, object], kind: str, notes: list[str]) -> dict[str, object]:
    """Size, resize and shorter side."""
    crop = _sides(config.get("crop_size")) if config.get("do_center_crop") else None
    if config.get("do_resize", True) is False:
        notes.append("it does not resize at all")
        return {"size": _text(crop)}
    size, shorter = _size(config.get("size"), kind)
    share = number(config.get("crop_pct"))
    if shorter is not None and share is not None and _LEAST_SHARE <= share <= 1:
        if crop is not None or shorter < _LEAST_UNCROPPED:
            return _cropped(crop or (shorter, shorter), int(shorter / share), notes)
        size, shorter = (shorter, shorter), None
    if shorter is not None and crop is not None:
        return _cropped(crop, int(shorter * (_LEVIT_ENLARGEMENT if kind.startswith("Levit") else 1)), notes)
    if shorter is not None:
        notes.append(
            f"it scales the shorter side to {shorter} pixels and keeps the rest, so that images have many sizes: "
            f"choose one, such as --size {shorter}x{shorter * 4 // 3} --resize stretch"
        )
        return {}
    if size is not None and crop is not None and crop != size:
        notes.append(
            f"it scales to {_text(size)} whatever the aspect ratio and then crops, which no manifest can say: the "
            f"nearest is --resize shorter_side_center_crop --shorter-side {max(size)}"
        )
        return {"size": _text(crop)}
    return {"size": _text(size), "resize": ResizeMode.STRETCH if size is not None else None}


def _cropped(crop: tuple[int, int], shorter_side: int, notes: list[str]) -> dict[str, object]:
    if shorter_side < max(crop):
        notes.append(f"it crops {_text(crop)} out of images whose shorter side has {shorter_side} pixels")
        return {"size": _text(crop)}
    return {
        "size": _text(crop),
        "resize": ResizeMode.SHORTER_SIDE_CENTER_CROP,
        "shorter_side": shorter_side,
    }


def _size(told: object, kind: str) -> tuple[tuple[int, int] | None, int | None]:
    """Height and width, or the shorter side; neither where it says something else."""
    shorter = told if isinstance(told, int) and kind.startswith(_SHORTER_SIDE_KINDS) else None
    if isinstance(told, Mapping):
        shorter = told.get("shortest_edge")
    if shorter is None:
        return _sides(told), None
    found = integers(shorter, 1)
    return None, None if found is None else found[0]


def _sides(told: object) -> tuple[int, int] | None:
    """Height and width, of both or of one number for both."""
    sides = [told.get("height"), told.get("width")] if isinstance(told, Mapping) else told
    found = integers(sides, 2)
    return None if found is None else (found[0], found[1])


def _text(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]}"


def _levels(config: Mapping[str, object], kind: str, channels: int, notes: list[str]) -> dict[str, object]:
    """Mean and deviation of levels in [0, 1], whatever the file scales them to first."""
    for key in ("include_top", "rescale_offset"):
        if config.get(key):
            notes.append(f"it has `{key}`, which changes levels in a way of its own")
            return {}
    scale = 1.0
    if config.get("do_rescale", True):
        factor = number(config.get("rescale_factor", 1 / 255))
        scale = 255 * factor if factor is not None and factor > 0 else 1.0
        scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    else:
        scale = 255.0
    mean, std = (_numbers(config.get(key), channels) for key in ("image_mean", "image_std"))
    if config.get("do_normalize", mean is not None) is False:
        if "do_normalize" not in config and not kind.startswith(_MOBILEVIT):
            return {}
        mean, std = [0.0] * channels, [1.0] * channels
    if mean is None or std is None or min(std) <= 0:
        return {}
    return {
        "mean": ",".join(repr(value / scale) for value in mean),
        "std": ",".join(repr(value / scale) for value in std),
    }


def _numbers(told: object, channels: int) -> list[float] | None:
    """Of a list, or one number for all channels."""
    values = told if isinstance(told, list) else [told] * channels
    numbers = [found for found in map(number, values) if found is not None]
    return numbers if numbers and len(numbers) == len(values) else None
