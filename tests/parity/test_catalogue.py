"""The catalogue: a cross-section of it is proved here, all of it by `make catalogue`."""

from dataclasses import replace
from types import ModuleType

import onnx
import pytest
import torch
import torchvision
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export.catalogue import rows
from retinue_export.catalogue.proof import LIMITS, prove
from retinue_export.errors import ExportError, ParityError
from retinue_export.packaging import SingleOutput

NAMED = {
    *("lenet_5", "alexnet", "zfnet", "vgg16", "googlenet", "resnet152", "densenet121", "fashion_cnn"),
    *("mobilenet_v2", "shufflenet_v2_x1_0", "overfeat", "rcnn", "fast_rcnn", "rfcn", "yolo_v1", "yolo_v3"),
    *("ssd300_vgg16", "fcn_32s", "fcn_16s", "fcn_8s", "deconvnet", "fashion_detector", "fashion_segmenter"),
}
"""The networks that anyone would look for."""
CROSS_SECTION = (
    "convnextv2_atto",
    "deit_tiny_patch16_224",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fashion_detector",
    "fast_rcnn",
    "fcn_8s",
    "googlenet",
    "legacy_seresnet50",
    "lenet_5",
    "mobilenet_v3_small",
    "rcnn",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "ssdlite320_mobilenet_v3_large",
    "swin_t",
)


@pytest.mark.parametrize(
    ("task", "module"),
    [
        (pb.TASK_CLASSIFY, torchvision.models),
        (pb.TASK_SEGMENT, torchvision.models.segmentation),
        (pb.TASK_DETECT, torchvision.models.detection),
    ],
)
def test_every_classifier_segmenter_and_detector_of_torchvision_is_in_it(
    task: pb.Task.ValueType, module: ModuleType
) -> None:
    listed = {row.name for row in rows.all_rows() if row.source == "torchvision" and row.task == task}
    assert listed == set(torchvision.models.list_models(module=module))


def test_the_classics_and_retinues_own_networks_are_in_it() -> None:
    assert {row.name for row in rows.all_rows()} >= NAMED


@pytest.mark.slow
@pytest.mark.parametrize("name", CROSS_SECTION)
def test_a_network_computes_the_same_at_every_batch_size(name: str) -> None:
    (row,) = rows.matching([name])
    proof = prove(row)
    assert proof.difference <= LIMITS[row.task].allowed
    assert proof.spread >= LIMITS[row.task].least_spread
    assert proof.file_bytes < 3 * proof.parameters + 400_000


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 6))


TINY = rows.Row("tests", "tiny", pb.TASK_CLASSIFY, Tiny, 32)


def test_a_graph_of_other_weights_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SingleOutput.graph

    def of_another_network(packaging: SingleOutput, network: nn.Module) -> onnx.ModelProto:
        torch.manual_seed(9)
        return honest(packaging, Tiny())

    assert prove(TINY).difference < 1e-4
    monkeypatch.setattr(SingleOutput, "graph", of_another_network)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        prove(TINY)


class Deaf(nn.Module):
    """Answers every image alike, and by no layer that could be scaled."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * 1e-6 + torch.tensor([1.0, 2.0, 3.0])


def test_a_network_that_answers_all_images_alike_proves_nothing() -> None:
    with pytest.raises(ExportError, match="too little to compare on"):
        prove(replace(TINY, build=Deaf))
