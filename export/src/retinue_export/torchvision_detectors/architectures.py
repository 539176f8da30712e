"""Which of torchvision's detectors is exported how."""

from typing import Any

import torchvision
from torch import nn
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_Weights,
    KeypointRCNN,
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN,
    MaskRCNN_ResNet50_FPN_Weights,
    RetinaNet,
    RetinaNet_ResNet50_FPN_Weights,
)
from torchvision.models.detection.ssd import SSD

from retinue_export.errors import ExportError
from retinue_export.torchvision_detectors.detector import Detector
from retinue_export.torchvision_detectors.single_stage import Dense, DenseByLevel, DenseFcos, DenseSsd
from retinue_export.torchvision_detectors.two_stage import TwoStage

KEYPOINTS: tuple[str, ...] = tuple(KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"])
"""What torchvision's own weights find of a person."""
_SINGLE_STAGE: dict[type, type[Dense]] = {FCOS: DenseFcos, RetinaNet: DenseByLevel, SSD: DenseSsd}
_TWO_STAGE = (FasterRCNN, MaskRCNN, KeypointRCNN)
_WITHOUT_EPS = (
    FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    KeypointRCNN_ResNet50_FPN_Weights.COCO_V1,
    MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    RetinaNet_ResNet50_FPN_Weights.COCO_V1,
)
"""Weights for which torchvision's builders let batch normalisation add nothing to the variance."""


def names() -> list[str]:
    """Torchvision's names of all its detectors."""
    return list(torchvision.models.list_models(module=torchvision.models.detection))


def has_keypoints(architecture: str) -> bool:
    """Whether a detector finds keypoints, too."""
    return architecture.startswith("keypointrcnn")


def build(
    architecture: str,
    classes: int,
    height: int,
    width: int,
    keypoint_names: tuple[str, ...] = KEYPOINTS,
    **options: Any,
) -> Detector:
    """Builds a detector with random weights.

    Args:
        architecture: torchvision's name, such as "retinanet_resnet50_fpn".
        classes: how many kinds of things there are, with torchvision's own background.
        height: rows of the images, a multiple of 32; those of SSD are fixed.
        width: their columns, likewise.
        keypoint_names: for Keypoint R-CNN: what it finds of each thing.
        options: more of torchvision's own, such as `rpn_post_nms_top_n_test`.

    Raises:
        ExportError: it is none of torchvision's detectors, or takes images of another size.
    """
    if architecture not in names():
        raise ExportError(f"{architecture} is none of torchvision's detectors.")
    if has_keypoints(architecture):
        options["num_keypoints"] = len(keypoint_names)
    detector = torchvision.models.get_model(
        architecture, weights=None, weights_backbone=None, num_classes=classes, **options
    )
    fixed = detector.transform.fixed_size
    if fixed is not None and fixed != (width, height):
        raise ExportError(f"{architecture} takes images of {fixed[1]} x {fixed[0]} pixels and no others.")
    if fixed is None and (height % 32 or width % 32):
        raise ExportError(f"{architecture} takes images whose height and width are multiples of 32.")
    if isinstance(detector, _TWO_STAGE):
        found = keypoint_names if has_keypoints(architecture) else ()
        return TwoStage(detector, classes, height, width, found)
    return _SINGLE_STAGE[type(detector)](detector, classes, height, width)


def as_published(detector: Detector, weights: Any) -> Detector:
    """Sets what torchvision's builder sets for weights of its own, in place; it is in no file.

    Args:
        detector: made by `build`.
        weights: the entry of torchvision's list whose file it gets.
    """
    if weights in _WITHOUT_EPS:
        for part in detector.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = 0.0
    return detector
