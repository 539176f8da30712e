"""torchvision's image classifiers, with the transforms that belong to their weights."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from retinue_export import inputs, label_files, weight_files
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation, classifier
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec, ResizeMode

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Preset:
    """What torchvision says of a set of weights.

    Attributes:
        weights: the entry of torchvision's own list.
        spec: how images are prepared.
        normalisation: how pixels are normalised.
        labels: the classes the weights were trained on.
    """

    weights: WeightsEnum
    spec: InputSpec
    normalisation: Normalisation
    labels: tuple[str, ...]


def candidate(
    architecture: str, name: str, weights: Path | None, labels: Path | None, full_precision: bool = False
) -> Candidate:
    """Prepares one of torchvision's classifiers for export.

    Args:
        architecture: torchvision's name, such as "mobilenet_v2".
        name: the bundle's name.
        weights: a state dict saved by torch.save; torchvision's own are downloaded where it is None.
        labels: a text file with one label a line; torchvision's own where it is None.
        full_precision: see `Candidate`.

    Raises:
        ExportError: the architecture is unknown, or the files do not fit it.
    """
    path = weights if weights is not None else _download(find_preset(architecture).weights)
    state = weight_files.read(path)
    sha256 = manifest_file.file_sha256(path)
    preset = find_preset(architecture, sha256)
    classes = weight_files.class_count(state)
    names = label_files.read(labels) if labels is not None else preset.labels
    if len(names) != classes:
        told = f"{labels} has {len(names)} labels" if labels else f"torchvision names {len(names)} classes"
        raise ExportError(
            f"{told}, but the weights have {classes} classes: give --labels with one line a class."
        )
    network = build_network(architecture, classes)
    weight_files.load_into(network, state, architecture)
    manifest = pb.ModelManifest(
        name=name,
        task=pb.TASK_CLASSIFY,
        labels=names,
        source=pb.Source(
            framework=f"torch {torch.__version__.split('+')[0]}, torchvision {version('torchvision').split('+')[0]}",
            architecture=f"torchvision.models.{architecture}",
            weights=path.name,
            weights_sha256=sha256,
        ),
    )
    if _is_file_of(preset.weights, sha256):
        manifest.source.licence = preset.weights.meta.get("license", "BSD-3-Clause")
        manifest.description = (
            f"Tells which of {classes} kinds of things a photo shows. "
            f"torchvision's {architecture}, trained on ImageNet ({preset.weights.name})."
        )
    else:
        manifest.source.licence = "unknown"
        manifest.description = f"torchvision's {architecture} with weights of your own: {classes} classes."
    return Candidate(
        manifest=manifest,
        network=network.eval(),
        packaging=classifier(preset.spec, preset.normalisation),
        parity_images=lambda: inputs.photos(preset.spec),
        parity_inputs=inputs.PHOTOS_DESCRIPTION,
        full_precision=full_precision,
    )


def find_preset(architecture: str, sha256: str = "") -> Preset:
    """Looks up what torchvision says of weights.

    Args:
        architecture: torchvision's name, such as "mobilenet_v2".
        sha256: of the weights file, 64 lower-case hexadecimal digits; where no file of torchvision's has it, the
            answer is that of the first weights it lists.

    Raises:
        ExportError: torchvision has no such classifier.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        everything = torchvision.models.list_models()
        if architecture in everything:
            raise ExportError(
                f"{architecture} is no image classifier: only torchvision's classifiers are exported."
            )
        raise ExportError(f"torchvision has no model {architecture!r}. It has: {', '.join(known)}.")
    entries: list[WeightsEnum] = list(torchvision.models.get_model_weights(architecture))
    entry = next((entry for entry in entries if _is_file_of(entry, sha256)), entries[0])
    transforms: Any = entry.transforms()
    (crop,), (side,) = transforms.crop_size, transforms.resize_size
    resample = _RESAMPLING.get(transforms.interpolation.value)
    if resample is None:
        raise ExportError(
            f"{architecture} resizes by {transforms.interpolation.value}, which no manifest can say."
        )
    spec = InputSpec(
        height=crop,
        width=crop,
        grey=False,
        resize_mode=ResizeMode.SHORTER_SIDE_CENTER_CROP,
        resample=resample,
        shorter_side=side,
    )
    normalisation = Normalisation(tuple(transforms.mean), tuple(transforms.std))
    return Preset(entry, spec, normalisation, tuple(entry.meta["categories"]))


def build_network(architecture: str, classes: int) -> nn.Module:
    """Builds a classifier with random weights, such as "mobilenet_v2"."""
    # Two older networks change the normalisation inside when they have torchvision's weights, have a branch for
    # training only, and warn where they are not told how to initialise.
    older = {"transform_input": True, "aux_logits": True, "init_weights": False}
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


def _is_file_of(entry: WeightsEnum, sha256: str) -> bool:
    """Whether a file is torchvision's own, which names each by the first digits of its SHA-256."""
    return sha256.startswith(Path(entry.url).stem.rpartition("-")[2])


def _download(entry: WeightsEnum) -> Path:
    """Fetches a file to where torch keeps such files, unless it is there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        entry.get_state_dict(str(path.parent), progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ExportError(
            f"{entry.url} could not be downloaded ({error}): give the file as --weights."
        ) from error
    return path
