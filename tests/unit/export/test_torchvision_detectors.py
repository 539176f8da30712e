"""torchvision's single-stage detectors up to suppression."""

import pytest
import torch

from retinue_export.catalogue.liveness import enliven_detector
from retinue_export.errors import ExportError
from retinue_export.torchvision_detectors import architectures
from retinue_export.torchvision_detectors.single_stage import Dense


@pytest.fixture(scope="module")
def ssdlite() -> Dense:
    torch.manual_seed(0)
    dense = architectures.build("ssdlite320_mobilenet_v3_large", 4, 320, 320)
    enliven_detector(dense, torch.rand(2, 3, 320, 320))
    return dense


@torch.no_grad()
def test_ssd_gives_the_best_candidates_of_each_class_but_none_of_the_background(
    ssdlite: Dense,
) -> None:
    boxes, scores = ssdlite(torch.rand(2, 3, 320, 320))
    assert boxes.shape == (2, len(ssdlite.anchors), 4)
    assert scores.shape == (2, 4, len(ssdlite.anchors))
    assert not scores[:, 0].any()
    assert ((scores[:, 1:] > 0).sum(dim=2) >= ssdlite.detector.topk_candidates).all()
    assert ((scores[:, 1:] > 0).sum(dim=2) < len(ssdlite.anchors)).all()


@torch.no_grad()
def test_a_candidate_of_a_pyramid_is_of_one_class() -> None:
    torch.manual_seed(0)
    dense = architectures.build("retinanet_resnet50_fpn", 3, 64, 64)
    boxes, scores = dense(torch.rand(1, 3, 64, 64))
    assert boxes.shape[1] == scores.shape[2]
    assert ((scores > 0).sum(dim=1) == 1).all()
    everything = dense.outputs(torch.rand(1, 3, 64, 64))["cls_logits"]
    assert boxes.shape[1] <= everything[0].numel()


@pytest.mark.parametrize(
    ("architecture", "side", "told"),
    [
        ("resnet18", 320, "none of torchvision's detectors"),
        ("ssd300_vgg16", 320, "300 x 300 pixels and no others"),
        ("retinanet_resnet50_fpn", 100, "multiples of 32"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, side: int, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        architectures.build(architecture, 2, side, side)
