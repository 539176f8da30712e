"""torchvision's classifiers, segmenters and detectors, with the transforms that belong to their weights."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from retinue_export import input_options, label_files, parity, pretrained, weight_files
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation, Packaging, segmenter
from retinue_export.pretrained import Preset
from retinue_export.published_files import download, is_file_of
from retinue_export.torchvision_detectors import architectures
from retinue_export.torchvision_detectors.detector import Detector
from retinue_export.weight_files import State
from retinue_server.vision.spec import InputSpec, ResizeMode

PREFIX = "torchvision.models."
"""How a manifest begins the name of an architecture of torchvision's."""
_MODULES = {
    pb.TASK_CLASSIFY: torchvision.models,
    pb.TASK_SEGMENT: torchvision.models.segmentation,
    pb.TASK_DETECT: torchvision.models.detection,
}
_TRAINED_ON = {
    pb.TASK_CLASSIFY: "trained on ImageNet",
    pb.TASK_SEGMENT: "trained on photos of COCO with the classes of Pascal VOC",
    pb.TASK_DETECT: "trained on COCO",
}
_AUXILIARY = {"aux1", "aux2", "AuxLogits"}
"""What GoogLeNet and Inception call the branches that only training needs."""
_PAD_VALUE = 114
"""The grey that is nearest to the mean of the normalisation: what torchvision's detectors fill up with."""
Size = tuple[int, int]
"""Rows and columns of the images."""


def candidate(
    architecture: str,
    name: str,
    weights: Path | None,
    labels: Path | None,
    size: str | None = None,
    keypoints: Path | None = None,
) -> Candidate:
    """Prepares a network for export: see `pretrained.candidate`.

    Args:
        architecture: see `find_preset`.
        name: see `pretrained.candidate`, as the following.
        weights: likewise.
        labels: likewise.
        size: "520", or "480x640", rows first; torchvision's own where it is None.
        keypoints: a text file with one name a line, of what Keypoint R-CNN finds of each thing; torchvision's own
            where it is None.

    Raises:
        ExportError: torchvision has no such network, or the files do not fit it.
    """
    wanted = None if size is None else input_options.parse_size(size)
    names = None if keypoints is None else tuple(label_files.read(keypoints))
    return pretrained.candidate(
        lambda known_as, sha256: find_preset(known_as, sha256, wanted, names),
        architecture,
        name,
        weights,
        labels,
    )


def preset_of(architecture: str, manifest: pb.ModelManifest) -> Preset:
    """Finds again what a bundle was made from."""
    made_for_any_size = manifest.task != pb.TASK_CLASSIFY
    return find_preset(
        architecture,
        manifest.source.weights_sha256,
        (manifest.input.height, manifest.input.width) if made_for_any_size else None,
        tuple(manifest.detect.keypoint_names) or None,
    )


def find_preset(
    architecture: str,
    sha256: str = "",
    size: Size | None = None,
    keypoints: tuple[str, ...] | None = None,
) -> Preset:
    """Looks up what torchvision says of a network's weights.

    Args:
        architecture: torchvision's name, such as "mobilenet_v2".
        sha256: of the weights file, 64 lower-case hexadecimal digits; where no file of torchvision's has it, the
            answer is that of the first weights it lists, for segmenters and detectors of the last.
        size: of the images; None for torchvision's own.
        keypoints: names of what Keypoint R-CNN finds; None for torchvision's own.

    Raises:
        ExportError: torchvision has no such network, or it cannot be as wanted.
    """
    task = _task(architecture)
    if keypoints is not None and not architectures.has_keypoints(architecture):
        raise ExportError(f"{architecture} finds no keypoints: leave --keypoints away.")
    entries: list[WeightsEnum] = list(torchvision.models.get_model_weights(architecture))
    default = entries[0] if task == pb.TASK_CLASSIFY else entries[-1]
    entry = next((entry for entry in entries if is_file_of(entry.url, sha256)), default)
    recognised = is_file_of(entry.url, sha256)
    preset = partial(
        Preset,
        library="torchvision",
        name=architecture,
        architecture=f"{PREFIX}{architecture}",
        load=partial(weight_files.load_into, described=architecture),
        download=partial(download, entry.url),
        labels=tuple(entry.meta["categories"]),
        training=f"{_TRAINED_ON[task]} ({entry.name})",
        licence=entry.meta.get("license", "BSD-3-Clause"),
        recognised=recognised,
        task=task,
    )
    if task == pb.TASK_CLASSIFY:
        return _classifier(preset, architecture, entry, size)
    if task == pb.TASK_SEGMENT:
        return _segmenter(preset, architecture, entry, size)
    return _detector(
        preset, architecture, entry if recognised else None, size, keypoints or architectures.KEYPOINTS
    )


def _task(architecture: str) -> pb.Task.ValueType:
    known = {task: torchvision.models.list_models(module=module) for task, module in _MODULES.items()}
    for task, names in known.items():
        if architecture in names:
            return task
    if architecture in torchvision.models.list_models():
        raise ExportError(
            f"{architecture} is no classifier, segmenter or detector of images, as all are that can be exported."
        )
    every = ", ".join(name for names in known.values() for name in names)
    raise ExportError(f"torchvision has no model {architecture!r}. It has: {every}.")


def _classifier(preset: partial[Preset], architecture: str, entry: WeightsEnum, size: Size | None) -> Preset:
    if size is not None:
        raise ExportError(
            f"{architecture} is a classifier, and takes images as its weights want them: leave --size away."
        )
    transforms: Any = entry.transforms()
    (crop,), (side,) = transforms.crop_size, transforms.resize_size
    resample = pretrained.resampling(transforms.interpolation.value)
    if resample is None:
        raise ExportError(
            f"{architecture} resizes by {transforms.interpolation.value}, which no manifest can say."
        )
    return preset(
        build=partial(build_network, architecture),
        spec=InputSpec(
            height=crop,
            width=crop,
            grey=False,
            resize_mode=ResizeMode.SHORTER_SIDE_CENTER_CROP,
            resample=resample,
            shorter_side=side,
        ),
        normalisation=Normalisation(tuple(transforms.mean), tuple(transforms.std)),
        place=_place_classifier,
    )


def _segmenter(preset: partial[Preset], architecture: str, entry: WeightsEnum, size: Size | None) -> Preset:
    transforms: Any = entry.transforms()
    (side,) = transforms.resize_size
    normalisation = Normalisation(tuple(transforms.mean), tuple(transforms.std))

    def package(_network: nn.Module, spec: InputSpec) -> Packaging:
        return segmenter(spec, normalisation, parity.FEW_BATCH_SIZES)

    return preset(
        build=partial(build_segmenter, architecture),
        spec=_spec(size or (side, side), ResizeMode.LETTERBOX),
        normalisation=normalisation,
        package=package,
        place=_place_segmenter,
    )


def _detector(
    preset: partial[Preset],
    architecture: str,
    published: WeightsEnum | None,
    size: Size | None,
    keypoints: tuple[str, ...],
) -> Preset:
    with torch.device("meta"):
        transform = torchvision.models.get_model(architecture, weights=None, weights_backbone=None).transform
    side = transform.min_size[-1]
    height, width = size or (side, side)

    def build(classes: int) -> Detector:
        detector = architectures.build(architecture, classes, height, width, keypoints)
        return architectures.as_published(detector, published) if published else detector

    def package(network: nn.Module, spec: InputSpec) -> Packaging:
        assert isinstance(network, Detector)
        return network.packaging(spec)

    return preset(
        build=build,
        spec=_spec((height, width), ResizeMode.STRETCH if transform.fixed_size else ResizeMode.LETTERBOX),
        normalisation=Normalisation(tuple(transform.image_mean), tuple(transform.image_std)),
        package=package,
        place=_place_detector,
    )


def _spec(size: Size, resize_mode: ResizeMode) -> InputSpec:
    height, width = size
    return InputSpec(
        height=height,
        width=width,
        grey=False,
        resize_mode=resize_mode,
        resample=Image.Resampling.BILINEAR,
        pad_value=_PAD_VALUE if resize_mode is ResizeMode.LETTERBOX else 0,
    )


def _place_classifier(network: nn.Module, state: State) -> tuple[nn.Module, State]:
    """Leaves out the branches that only training needs, which torchvision's own files have."""
    return network, {name: value for name, value in state.items() if not _AUXILIARY & set(name.split("."))}


def _place_segmenter(network: nn.Module, state: State) -> tuple[nn.Module, State]:
    """Leaves out the branch that only training needs, which torchvision's own files have."""
    assert isinstance(network, _Logits)
    return network.network, {name: value for name, value in state.items() if "aux_classifier." not in name}


def _place_detector(network: nn.Module, state: State) -> tuple[nn.Module, State]:
    assert isinstance(network, Detector)
    return network.detector, state


def build_network(architecture: str, classes: int) -> nn.Module:
    """Builds a classifier with random weights, such as "mobilenet_v2"."""
    # Two older networks change the normalisation inside when they have torchvision's weights, or have been trained
    # further from these, have branches for training only, and warn where they are not told how to initialise.
    older = {"transform_input": True, "aux_logits": False, "init_weights": False}
    extra = older if architecture in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(
        architecture, weights=None, num_classes=classes, **extra
    )
    return network


class _Logits(nn.Module):
    """A segmenter that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)["out"]
        return logits


def build_segmenter(architecture: str, classes: int) -> nn.Module:
    """Builds a segmenter with random weights, such as "fcn_resnet50", that returns logits [N,classes,H,W]."""
    return _Logits(
        torchvision.models.get_model(architecture, weights=None, weights_backbone=None, num_classes=classes)
    )
