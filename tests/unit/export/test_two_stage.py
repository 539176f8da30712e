"""Two-stage detectors, whole: the graph of a small one against torchvision's own code."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator

from retinue_export import agreement, parity
from retinue_export.catalogue.liveness import enliven_detector
from retinue_export.parity import Outputs, Runner
from retinue_export.torchvision_detectors.architectures import KEYPOINTS
from retinue_export.torchvision_detectors.detector import own_runner
from retinue_export.torchvision_detectors.two_stage import TwoStage
from retinue_server.vision.spec import InputSpec, ResizeMode

pytestmark = pytest.mark.slow

SIDE, CLASSES, CHANNELS, ROWS = 128, 5, 8, 10
SPEC = InputSpec(
    height=SIDE, width=SIDE, grey=False, resize_mode=ResizeMode.STRETCH, resample=Image.Resampling.BILINEAR
)


class Pyramid(nn.Module):
    """Two levels."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 9, stride=8, padding=4)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        return {"0": first, "1": self.second(first.relu())}


def settings() -> dict[str, Any]:
    return {
        "rpn_anchor_generator": AnchorGenerator(((48,), (96,)), ((0.5, 1.0, 2.0),) * 2),
        "rpn_post_nms_top_n_test": 40,
        "rpn_score_thresh": 0.3,
        "box_head": TwoMLPHead(CHANNELS * 49, 16),
        "box_predictor": Predictor(),
        "box_detections_per_img": ROWS,
    }


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_score = nn.Linear(16, CLASSES)
        self.bbox_pred = nn.Linear(16, 4 * CLASSES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


def with_masks() -> MaskRCNN:
    head, predictor = MaskRCNNHeads(CHANNELS, (8,), 1), MaskRCNNPredictor(8, 8, CLASSES)
    return MaskRCNN(Pyramid(), mask_head=head, mask_predictor=predictor, **settings())


def with_keypoints() -> KeypointRCNN:
    head, predictor = KeypointRCNNHeads(CHANNELS, (8,)), KeypointRCNNPredictor(8, 17)
    return KeypointRCNN(Pyramid(), keypoint_head=head, keypoint_predictor=predictor, **settings())


@dataclass(frozen=True, slots=True)
class Exported:
    detector: TwoStage
    model: onnx.ModelProto
    run: Runner


@pytest.fixture(scope="module", params=[with_masks, with_keypoints])
def exported(request: pytest.FixtureRequest) -> Exported:
    torch.manual_seed(0)
    names = KEYPOINTS if request.param is with_keypoints else ()
    detector = TwoStage(request.param(), CLASSES, SIDE, SIDE, names).eval()
    enliven_detector(detector, torch.randn(8, 3, SIDE, SIDE) * torch.rand(8, 3, 1, 1))
    packaging = detector.packaging(SPEC)
    model = packaging.graph(detector)
    onnx.checker.check_model(model, full_check=True)
    return Exported(
        detector, model, parity.runner(parity.session(model.SerializeToString()), packaging.feeds)
    )


def images(count: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_graph_finds_what_torchvision_finds(exported: Exported, count: int) -> None:
    expected, actual = own_runner(exported.detector)(images(count)), exported.run(images(count))
    assert (expected["scores"] > 0.05).sum() > 2 * count
    assert set(actual) == set(expected)
    for name, values in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (values.dtype, values.shape)
    parts = agreement.parts_apart(expected, actual)
    assert len(parts) == 2
    assert not any(parts.values())


def test_heads_share_no_weight_and_none_is_stored_twice(exported: Exported) -> None:
    stored = sum(np.prod(tensor.dims) for tensor in exported.model.graph.initializer if len(tensor.dims) > 1)
    owned = sum(value.numel() for value in exported.detector.parameters() if value.ndim > 1)
    anchors = exported.detector.anchors.numel()
    assert owned <= stored < owned + anchors + 6000


def test_nothing_is_left_of_the_placeholders(exported: Exported) -> None:
    assert {node.domain for node in exported.model.graph.node} == {""}
    assert [opset.domain for opset in exported.model.opset_import] == [""]


def with_thresholds(exported: Exported, thresholds: list[float]) -> Outputs:
    session = parity.session(exported.model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    feed = {
        "images": images(len(thresholds)),
        "score_threshold": np.array(thresholds, np.float32),
        "iou_threshold": np.array([exported.detector.suppression.iou_threshold], np.float32),
    }
    return dict(zip(names, session.run(names, feed), strict=True))


def test_each_image_has_its_own_threshold_and_costs_its_neighbours_nothing(exported: Exported) -> None:
    free, bound = exported.run(images(3)), with_thresholds(exported, [0.0, 2.0, 0.0])
    assert (free["scores"][:, 0] > 0).all()
    for name, values in bound.items():
        assert not values[1].any()
        np.testing.assert_allclose(values[[0, 2]], free[name][[0, 2]], atol=1e-4)


def test_a_batch_in_which_nothing_is_found_is_no_error(exported: Exported) -> None:
    assert not any(values.any() for values in with_thresholds(exported, [2.0, 2.0]).values())


def test_the_manifest_says_what_a_detection_has(exported: Exported) -> None:
    from retinue.v1 import manifest_pb2 as pb

    manifest = pb.ModelManifest()
    exported.detector.packaging(SPEC).describe(manifest)
    detect = manifest.detect
    assert (detect.max_detections, detect.adjustable_thresholds) == (ROWS, True)
    if exported.detector.mask_side:
        assert (detect.mask_height, detect.mask_width, list(detect.keypoint_names)) == (28, 28, [])
    else:
        assert (detect.mask_height, detect.mask_width) == (0, 0)
        assert list(detect.keypoint_names)[::16] == ["nose", "right_ankle"]
