"""torchvision's image classifiers, with the transforms that belong to their weights."""

from functools import partial
from typing import Any

import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from retinue_export import pretrained, weight_files
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation
from retinue_export.pretrained import Preset
from retinue_export.published_files import download, is_file_of
from retinue_server.vision.spec import InputSpec, ResizeMode

PREFIX = "torchvision.models."
"""How a manifest begins the name of an architecture of torchvision's."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def find_preset(architecture: str, sha256: str = "") -> Preset:
    """Looks up what torchvision says of a classifier's weights.

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
    entry = next((entry for entry in entries if is_file_of(entry.url, sha256)), entries[0])
    transforms: Any = entry.transforms()
    (crop,), (side,) = transforms.crop_size, transforms.resize_size
    resample = _RESAMPLING.get(transforms.interpolation.value)
    if resample is None:
        raise ExportError(
            f"{architecture} resizes by {transforms.interpolation.value}, which no manifest can say."
        )
    return Preset(
        library="torchvision",
        name=architecture,
        architecture=f"{PREFIX}{architecture}",
        build=partial(build_network, architecture),
        load=partial(weight_files.load_into, described=architecture),
        download=partial(download, entry.url),
        spec=InputSpec(
            height=crop,
            width=crop,
            grey=False,
            resize_mode=ResizeMode.SHORTER_SIDE_CENTER_CROP,
            resample=resample,
            shorter_side=side,
        ),
        normalisation=Normalisation(tuple(transforms.mean), tuple(transforms.std)),
        labels=tuple(entry.meta["categories"]),
        training=f"trained on ImageNet ({entry.name})",
        licence=entry.meta.get("license", "BSD-3-Clause"),
        recognised=is_file_of(entry.url, sha256),
    )


candidate = partial(pretrained.candidate, find_preset)
"""See `pretrained.candidate`."""


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
