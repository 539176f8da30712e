"""timm's image classifiers, with the pre-processing that belongs to their weights."""

import difflib
import importlib
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retinue_export import pretrained, published_files, weight_files
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation
from retinue_export.pretrained import Preset
from retinue_export.weight_files import State
from retinue_server.vision.spec import InputSpec, ResizeMode

_UNCOMMON_SEED = 829_347_101
PREFIX = "timm."
"""How a manifest begins the name of an architecture of timm's."""
_INSTEAD = "`retinue-export module` takes a Python file that calls timm.create_model, and the pre-processing as options"


def find_preset(architecture: str, sha256: str = "") -> Preset:
    """Looks up what timm says of a classifier's weights.

    Args:
        architecture: timm's name with or without the tag of a set of weights, such as "resnet18" or
            "resnet18.a1_in1k"; without it timm's first set counts.
        sha256: of the weights file, 64 lower-case hexadecimal digits.

    Raises:
        ExportError: timm has no such classifier, or prepares images in a way that no manifest can say.
    """
    config = _config(architecture)
    name = ".".join(filter(None, (config["architecture"], config.get("tag"))))
    spec, normalisation = preprocessing(name, config)
    return Preset(
        library="timm",
        name=name,
        architecture=f"{PREFIX}{name}",
        build=partial(build_network, name),
        load=partial(_load, architecture=name),
        download=partial(_download, name, config),
        spec=spec,
        normalisation=normalisation,
        labels=_labels(config),
        training=f"trained as timm's name of the weights says ({config.get('tag') or 'no tag'})",
        licence=config.get("license", "unknown"),
        recognised=published_files.is_file_of(config.get("url", ""), sha256),
    )


candidate = partial(pretrained.candidate, find_preset)
"""See `pretrained.candidate`."""


def build_network(architecture: str, classes: int, side: int | None = None) -> nn.Module:
    """Builds a classifier with random weights.

    Args:
        architecture: timm's name, such as "resnet18".
        classes: how many there are.
        side: rows and columns of the images; matters to architectures that are built for one size.

    Raises:
        ExportError: timm cannot build it as a classifier.
    """
    is_other = side is not None and side != input_side(architecture)
    size = {"img_size": side} if is_other and _config(architecture)["fixed_input_size"] else {}
    try:
        network: nn.Module = _timm().create_model(architecture, num_classes=classes, exportable=True, **size)
    except Exception as error:  # each architecture has its own code, which decides what is raised
        raise ExportError(
            f"timm cannot build {architecture} as a classifier of {classes} classes: "
            f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}."
        ) from error
    return network


def classifiers() -> list[str]:
    """Names of all architectures that timm has as classifiers, and not only to extract features."""
    timm = _timm()
    return [name for name in timm.list_models() if timm.get_pretrained_cfg(name).num_classes]


def input_side(architecture: str) -> int:
    """Columns of the images that an architecture was made for."""
    return int(_config(architecture)["input_size"][-1])


def preprocessing(name: str, config: dict[str, Any]) -> tuple[InputSpec, Normalisation]:
    """How images are prepared for a set of weights.

    Args:
        name: timm's name, for messages.
        config: timm's description of the weights, as its `PretrainedCfg.to_dict` gives it.

    Raises:
        ExportError: no manifest can say it.

    Source: timm.data.transforms_factory.transforms_imagenet_eval.
    """
    data = _timm().data.resolve_data_config(pretrained_cfg=config)
    channels, height, width = data["input_size"]
    mode, part = data["crop_mode"], data["crop_pct"]
    if channels not in (1, 3):
        raise ExportError(f"{name} takes images of {channels} channels, and a bundle those of 1 or 3.")
    resample = pretrained.resampling(data["interpolation"])
    if resample is None:
        raise ExportError(
            f"{name} resizes by {data['interpolation']}, which no manifest can say: {_INSTEAD}."
        )
    if mode == "center" and height == width and part <= 1:
        resize, shorter_side = ResizeMode.SHORTER_SIDE_CENTER_CROP, math.floor(height / part)
    elif mode == "squash" and part == 1:
        resize, shorter_side = ResizeMode.STRETCH, 0
    else:
        raise ExportError(
            f"timm prepares images for {name} by crop_mode {mode} with crop_pct {part} to {height} x {width}, "
            f"which no manifest can say: {_INSTEAD}."
        )
    spec = InputSpec(
        height=height,
        width=width,
        grey=channels == 1,
        resize_mode=resize,
        resample=resample,
        shorter_side=shorter_side,
    )
    return spec, Normalisation(tuple(data["mean"]), tuple(data["std"]))


def _timm() -> Any:
    """The library, imported where it is needed: it takes longer to import than other commands to answer."""
    return importlib.import_module("timm")


def _config(architecture: str) -> dict[str, Any]:
    timm = _timm()
    name, _, tag = architecture.partition(".")
    renamed = timm.models.get_deprecated_models()
    if name in renamed:
        raise ExportError(
            f"timm calls {name} {renamed[name]} now." if renamed[name] else f"timm has removed {name}."
        )
    if not timm.is_model(name):
        known = timm.list_models()
        similar = difflib.get_close_matches(name, known, n=5) or [one for one in known if name in one][:5]
        advice = f"It has {', '.join(similar)}" if similar else "timm.list_models() names what it has"
        raise ExportError(f"timm has no model {architecture!r}. {advice}.")
    tags = timm.models.get_arch_pretrained_cfgs(name)
    if tag and architecture not in tags:
        raise ExportError(
            f"timm has no weights {tag!r} of {name}. "
            f"It has {', '.join(key.partition('.')[2] for key in tags) or 'none'}."
        )
    config: dict[str, Any] = timm.get_pretrained_cfg(architecture).to_dict()
    return config


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """The classes of ImageNet or of the part of its full set that the weights know; none where they know others."""
    data = _timm().data
    part = data.infer_imagenet_subset(config)
    return tuple(data.ImageNetInfo(part).label_descriptions()) if part is not None else ()


def _load(network: nn.Module, state: State, architecture: str) -> None:
    """Gives a network its weights, through timm's own conversion where the file names them as another code does.

    Raises:
        ExportError: the weights are another network's.
    """
    try:
        weight_files.load_into(network, state, architecture)
    except ExportError as unlike:
        overlay = {"state_dict": state, "num_classes": network.num_classes, "label_offset": None}
        make = partial(_same_random, architecture, num_classes=network.num_classes)
        try:
            converted = make(pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
        except Exception:  # conversions expect what they know, and stumble over all else
            raise unlike from None
        # Of some networks timm takes files that lack weights, and leaves these as they were drawn.
        drawn = make().state_dict()
        if any(value.ndim > 1 and torch.equal(value, converted[name]) for name, value in drawn.items()):
            raise unlike from None
        network.load_state_dict(converted)


def _same_random(architecture: str, **options: Any) -> nn.Module:
    """Builds a network whose random weights are the same each time, and hardly those that somebody trained from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_UNCOMMON_SEED)
        network: nn.Module = _timm().create_model(architecture, **options)
    return network


def _download(name: str, config: dict[str, Any]) -> Path:
    repository, url = config.get("hf_hub_id", ""), config.get("url", "")
    if not repository and not url:
        raise ExportError(f"timm has no weights of {name}: give a file as --weights.")
    if not repository:
        return published_files.download(url)
    hub = importlib.import_module("huggingface_hub")
    hub.utils.logging.set_verbosity_error()
    hub.utils.disable_progress_bars()
    try:
        return Path(hub.hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of the library that it talks to the network with, too
        raise ExportError(
            f"{repository} could not be downloaded ({type(error).__name__}): give its model.safetensors as --weights."
        ) from error
