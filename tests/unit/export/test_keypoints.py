"""The search for keypoints as ONNX nodes against torchvision's."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from retinue_export import keypoints

COUNT, SIDE = 4, 14


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """A graph that passes heatmaps and boxes through to the search."""
    shapes: dict[str, list[str | int]] = {"heatmaps": ["boxes", COUNT, SIDE, SIDE], "boxes": ["boxes", 4]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([], "search", inputs, list(inputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    keypoints.append(model, "heatmaps", "boxes", "keypoints")
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, ["boxes", COUNT, 3])
    )
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def heatmaps(count: int) -> Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.randn(count, COUNT, 4, 4), size=(SIDE, SIDE), mode="bicubic")


def found(session: onnxruntime.InferenceSession, maps: Tensor, boxes: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {"heatmaps": maps.numpy(), "boxes": boxes.numpy()})[0])


@pytest.mark.parametrize(
    "size",
    [(SIDE, SIDE), (100, 37.5), (3.2, 61), (0.25, 0.25)],
    ids=["the map's own", "larger", "narrow", "less than a pixel"],
)
def test_keypoints_are_where_torchvision_finds_them(
    session: onnxruntime.InferenceSession, size: tuple[float, float]
) -> None:
    corners = torch.tensor([[0.0, 0.0], [10.3, 4.9], [200.5, 0.7]])
    boxes = torch.cat([corners, corners + torch.tensor(size)], dim=1)
    places, scores = heatmaps_to_keypoints(heatmaps(3), boxes)
    actual = found(session, heatmaps(3), boxes)
    assert torch.allclose(actual[..., :2], places[..., :2], atol=1e-4)
    assert torch.allclose(actual[..., 2], scores, atol=1e-5)


def test_boxes_of_several_sizes_do_not_mind_each_other(session: onnxruntime.InferenceSession) -> None:
    boxes = torch.tensor([[0.0, 0.0, 50.0, 20.0], [5.0, 5.0, 9.0, 90.0], [7.0, 1.0, 7.5, 1.5]])
    together = found(session, heatmaps(3), boxes)
    for number in range(3):
        alone = found(session, heatmaps(3)[number : number + 1], boxes[number : number + 1])
        np.testing.assert_array_equal(alone[0], together[number])


def test_no_box_at_all_is_no_error(session: onnxruntime.InferenceSession) -> None:
    assert found(session, heatmaps(1)[:0], torch.zeros(0, 4)).shape == (0, COUNT, 3)
