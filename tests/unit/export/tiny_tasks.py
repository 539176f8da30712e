"""Networks small enough to export in a unit test, one of each task, around the same layers."""

from dataclasses import replace

import torch
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny
from torch import Tensor, nn

from retinue_export.assembly import Candidate
from retinue_export.nms import Suppression
from retinue_export.packaging import CountedDetections, DetectorPackaging, classifier, segmenter


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * values


def network(first: float = 1, between: float = 1, last: float = 1, bias: float = 0) -> nn.Sequential:
    """Logits of 3 classes at 4x3 places: [N,3,4,3].

    Args:
        first: the scale of the first layer's weights.
        between: what that layer's values are multiplied by.
        last: the scale of the last layer's weights.
        bias: is added to all logits.
    """
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 2, stride=2, bias=False), nn.ReLU(), _Times(between), nn.Conv2d(8, 3, 1)
    )
    for layer, scale in ((made[0], first), (made[3], last)):
        assert isinstance(layer, nn.Conv2d)
        layer.weight.data *= scale
    assert isinstance(made[3], nn.Conv2d)
    assert made[3].bias is not None
    made[3].bias.data.fill_(bias)
    return made


class _Detector(nn.Module):
    """Boxes of 2x2 pixels, each with what a network says of its place."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        y, x = torch.meshgrid(2 * torch.arange(4.0), 2 * torch.arange(3.0), indexing="ij")
        self.register_buffer("boxes", torch.stack([x, y, x + 2, y + 2], dim=-1).view(1, 12, 4))
        self.boxes: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.features(images).flatten(2).sigmoid()
        return self.boxes.expand(images.shape[0], -1, -1), scores


def classify(features: nn.Module) -> Candidate:
    """A classifier ready to be bundled."""
    pooled = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return replace(
        tiny.candidate(), network=pooled.eval(), packaging=classifier(tiny.SPEC, tiny.NORMALISATION)
    )


def segment(features: nn.Module) -> Candidate:
    """A segmenter, likewise, of 4x3 pixels."""
    manifest = _described(pb.TASK_SEGMENT)
    manifest.segment.map_height, manifest.segment.map_width = 4, 3
    manifest.segment.background_class_id = -1
    packaging = segmenter(tiny.SPEC, tiny.NORMALISATION)
    return replace(tiny.candidate(), manifest=manifest, network=features.eval(), packaging=packaging)


def detect(features: nn.Module, packaged: type[DetectorPackaging] = DetectorPackaging) -> Candidate:
    """A detector, likewise: 12 boxes, from a score of 0.5."""
    manifest = _described(pb.TASK_DETECT)
    manifest.detect.default_score_threshold = 0.5
    packaging = packaged(tiny.SPEC, tiny.NORMALISATION, Suppression(max_detections=36))
    network = _Detector(features).eval()
    return replace(tiny.candidate(), manifest=manifest, network=network, packaging=packaging)


def detect_counted(features: nn.Module) -> Candidate:
    """The same, compared by counting."""
    return detect(features, CountedDetections)


def _described(task: pb.Task.ValueType) -> pb.ModelManifest:
    manifest = pb.ModelManifest()
    manifest.CopyFrom(tiny.candidate().manifest)
    manifest.task = task
    return manifest
