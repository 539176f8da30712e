"""What is in the catalogue: one row an architecture."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torchvision
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import inputs, timm_models, torchvision_models
from retinue_export.assembly import Candidate
from retinue_export.catalogue.heads import Head
from retinue_export.errors import ExportError
from retinue_export.nms import Suppression
from retinue_export.packaging import OF_LOGITS, CountedDetections, Normalisation, Packaging
from retinue_export.recipes.catalog import RECIPES
from retinue_export.torchvision_detectors import architectures
from retinue_export.torchvision_detectors.detector import Detector
from retinue_export.zoo import (
    deconvnet,
    fast_rcnn,
    fcn,
    lenet,
    overfeat,
    rcnn,
    rfcn,
    yolo,
    yolo_v3,
    zfnet,
)
from retinue_server.vision.spec import InputSpec, ResizeMode

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Normalisation((0.5,), (0.25,))
_SIDE = 64
_SIDES = {
    # Attention over windows or to a fixed number of places, dense layers behind a map of fixed size.
    **dict.fromkeys(("vit", "swin", "maxvit", "vgg", "alexnet"), 224),
    "inception": 192,
}
"""Rows and columns of the images, by how a network's name begins, where 64 are too few or not what it was made for."""

_REGIONS = 8
"""How many regions of an image are looked at, two of them unused."""
_SINGLE_STAGE_SIDES = {
    "fcos_resnet50_fpn": 320,
    "retinanet_resnet50_fpn": 320,
    "retinanet_resnet50_fpn_v2": 320,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
_TWO_STAGE_SIDE = 128
TWO_STAGE_DETECTIONS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 50,
    "fasterrcnn_mobilenet_v3_large_fpn": 50,
    "fasterrcnn_resnet50_fpn": 50,
    "fasterrcnn_resnet50_fpn_v2": 50,
    "keypointrcnn_resnet50_fpn": 10,
    "maskrcnn_resnet50_fpn": 20,
    "maskrcnn_resnet50_fpn_v2": 20,
}
"""How many things are found in an image at most: each costs the more the more is said of it."""
TWO_STAGE_PROPOSALS = 100


_TIMM = {
    # Xception and SENet as their papers have them.
    "legacy_xception": 128,
    "legacy_senet154": 64,
    "legacy_seresnet50": 64,
    "beit_base_patch16_224": 64,
    "coatnet_0_rw_224": 128,
    "convnextv2_atto": 64,
    "deit_tiny_patch16_224": 64,
    "dla34": 64,
    "edgenext_xx_small": 128,
    "efficientvit_b0": 64,
    "eva02_tiny_patch14_224": 112,
    "fastvit_t8": 64,
    "ghostnet_100": 64,
    "hrnet_w18_small": 64,
    "levit_128s": 128,
    "maxxvit_rmlp_nano_rw_256": 128,
    "mixer_s32_224": 224,
    "mobilenetv4_conv_small": 64,
    "mobileone_s0": 64,
    "repvgg_a0": 64,
    "resnest14d": 64,
    "swin_s3_tiny_224": 224,
    "tiny_vit_5m_224": 224,
}
"""Well-known classifiers that torchvision lacks, with the rows and columns of the images."""


@dataclass(frozen=True, slots=True)
class Row:
    """An architecture.

    Attributes:
        source: where it comes from: torchvision, timm, zoo, or retinue for those that it trains itself.
        name: its name there.
        task: what it answers.
        build: makes it with random weights.
        side: rows and columns of the images it is compared on.
        grey: whether these have one channel instead of three.
        normalisation: what is done to them; detectors have their own.
        packaging: how it becomes a graph, where its task alone does not say it.
        heads: how the network is made live, where this is neither by its logits nor one of torchvision's detectors.
    """

    source: str
    name: str
    task: pb.Task.ValueType
    build: Callable[[], nn.Module]
    side: int
    grey: bool = False
    normalisation: Normalisation = IMAGENET
    packaging: Packaging | None = None
    heads: tuple[Head, ...] = ()

    @property
    def spec(self) -> InputSpec:
        """How the images are prepared."""
        return self.packaging.spec if self.packaging is not None else _spec(self.side, self.grey)

    def candidate(self, network: nn.Module) -> Candidate:
        """Prepares the network, built by `build`, for export."""
        return Candidate(
            manifest=pb.ModelManifest(name=self.name, task=self.task),
            network=network,
            packaging=self._packaging(network),
            parity_images=lambda: inputs.photos(self.spec),
            parity_inputs=inputs.PHOTOS_DESCRIPTION,
        )

    def _packaging(self, network: nn.Module) -> Packaging:
        if isinstance(network, Detector):
            return network.packaging(self.spec)
        if self.packaging is not None:
            return self.packaging
        return OF_LOGITS[self.task](self.spec, self.normalisation)


def _spec(side: int, grey: bool = False) -> InputSpec:
    return InputSpec(
        height=side,
        width=side,
        grey=grey,
        resize_mode=ResizeMode.STRETCH,
        resample=Image.Resampling.BILINEAR,
    )


def task_name(task: pb.Task.ValueType) -> str:
    """A task in lower case, such as "classify"."""
    return pb.Task.Name(task).removeprefix("TASK_").lower()


def all_rows() -> list[Row]:
    """The catalogue, by source."""
    return [
        *_torchvision_classifiers(),
        *_torchvision_segmenters(),
        *_torchvision_detectors(),
        *_timm(),
        *_zoo(),
        *_retinue(),
    ]


def matching(patterns: list[str]) -> list[Row]:
    """The rows whose names are among these, or match them as shell patterns.

    Raises:
        ExportError: nothing matches one of them.
    """
    rows = all_rows()
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            raise ExportError(
                f"The catalogue has no {pattern!r}: `retinue-export catalogue` lists what it has."
            )
    return [row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def _torchvision_classifiers() -> list[Row]:
    return [
        Row(
            "torchvision",
            name,
            pb.TASK_CLASSIFY,
            partial(torchvision_models.build_network, name, 1000),
            next((side for start, side in _SIDES.items() if name.startswith(start)), _SIDE),
        )
        for name in torchvision.models.list_models(module=torchvision.models)
    ]


def _torchvision_segmenters() -> list[Row]:
    return [
        Row(
            "torchvision",
            name,
            pb.TASK_SEGMENT,
            partial(torchvision_models.build_segmenter, name, 21),
            _SIDE,
        )
        for name in torchvision.models.list_models(module=torchvision.models.segmentation)
    ]


def _torchvision_detectors() -> list[Row]:
    single_stage = [
        Row(
            "torchvision",
            name,
            pb.TASK_DETECT,
            partial(architectures.build, name, 91, side, side),
            side,
        )
        for name, side in _SINGLE_STAGE_SIDES.items()
    ]
    two_stage = [
        Row(
            "torchvision",
            name,
            pb.TASK_DETECT,
            partial(
                architectures.build,
                name,
                2 if architectures.has_keypoints(name) else 21,
                _TWO_STAGE_SIDE,
                _TWO_STAGE_SIDE,
                rpn_post_nms_top_n_test=TWO_STAGE_PROPOSALS,
                box_detections_per_img=detections,
            ),
            _TWO_STAGE_SIDE,
        )
        for name, detections in TWO_STAGE_DETECTIONS.items()
    ]
    return single_stage + two_stage


def _timm() -> list[Row]:
    return [timm_row(name, side) for name, side in _TIMM.items()]


def timm_row(name: str, side: int) -> Row:
    """A classifier of timm's."""
    return Row("timm", name, pb.TASK_CLASSIFY, partial(timm_models.build_network, name, 1000, side), side)


def _zoo() -> list[Row]:
    return [
        Row("zoo", "lenet_5", pb.TASK_CLASSIFY, lenet.LeNet5, lenet.SIDE, grey=True, normalisation=GREY),
        Row("zoo", "zfnet", pb.TASK_CLASSIFY, zfnet.ZFNet, zfnet.SIDE),
        Row("zoo", "fcn_32s", pb.TASK_SEGMENT, fcn.fcn_32s, _SIDE),
        Row("zoo", "fcn_16s", pb.TASK_SEGMENT, fcn.fcn_16s, _SIDE),
        Row("zoo", "fcn_8s", pb.TASK_SEGMENT, fcn.fcn_8s, _SIDE),
        Row(
            *("zoo", "deconvnet", pb.TASK_SEGMENT, deconvnet.DeconvNet, deconvnet.SIDE),
            # Rounding decides which of two nearly equal places of a map is its maximum, and so where it is put back. As
            # in a trained network, most pixels are clearly background, and their class does not depend on it.
            heads=(Head("score", 10, 3, past=1), Head("score", 0, 3, first=1)),
        ),
        *_zoo_detectors(),
    ]


def _zoo_detectors() -> list[Row]:
    of_regions = (Head("classes", 0, 2), Head("boxes", 0, 0.3))
    return [
        _detector(
            *("overfeat", overfeat.OverFeat, overfeat.SIDE, Suppression(max_detections=1, min_score=0)),
            heads=(
                Head("classes.6", 0, 4),
                Head("box.6", 0.25, 0.08, 0, 2),
                Head("box.6", 0.75, 0.08, 2, 4),
            ),
        ),
        _detector("rcnn", rcnn.RCNN, 128, Suppression(50), of_regions, _REGIONS),
        _detector("fast_rcnn", fast_rcnn.FastRCNN, 128, Suppression(50), of_regions, _REGIONS),
        _detector("rfcn", rfcn.RFCN, 128, Suppression(50), of_regions, _REGIONS),
        _detector(
            *("yolo_v1", yolo.YoloV1, yolo.SIDE, Suppression(50)),
            heads=(
                Head("dense.4", 0, 0.3, 0, 980),
                Head("dense.4", 0, 0.2, 980, 1078),
                Head("dense.4", 0.5, 0.15, 1078, 1470),
            ),
        ),
        _detector(
            *("yolo_v3", yolo_v3.YoloV3, 96, Suppression(50)),
            heads=(
                Head("heads.?.1", 0, 0.5, 0, 4, period=85),
                Head("heads.?.1", -4, 1.5, 4, 5, period=85),
                Head("heads.?.1", -5, 2, 5, 85, period=85),
            ),
        ),
    ]


def _detector(
    name: str,
    build: Callable[[], nn.Module],
    side: int,
    suppression: Suppression,
    heads: tuple[Head, ...],
    regions: int = 0,
) -> Row:
    packaging = CountedDetections(_spec(side), IMAGENET, suppression, regions=regions)
    return Row("zoo", name, pb.TASK_DETECT, build, side, packaging=packaging, heads=heads)


def _retinue() -> list[Row]:
    heads = {"fashion-detector": (Head("class_branch.2", -4, 1.5), Head("box_branch.1", 1, 0.3))}
    return [
        Row(
            "retinue",
            name.replace("-", "_"),
            recipe.manifest.task,
            recipe.network,
            recipe.packaging.spec.height,
            grey=recipe.packaging.spec.grey,
            packaging=recipe.packaging,
            heads=heads.get(name, ()),
        )
        for name, recipe in RECIPES.items()
    ]
