"""Suppression as ONNX nodes against the same in PyTorch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from retinue_export import nms
from retinue_export.nms import Suppression

CLASSES, BOXES = 3, 40


def session_for(suppression: Suppression, *, adjustable: bool = False) -> onnxruntime.InferenceSession:
    """A graph that passes boxes and scores through to suppression, and the boxes to an output of their own."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["boxes_in"], ["dense_boxes"]),
            helper.make_node("Identity", ["scores_in"], ["dense_scores"]),
            helper.make_node("Identity", ["boxes_in"], ["other"]),
        ],
        "passing",
        [
            helper.make_tensor_value_info("boxes_in", TensorProto.FLOAT, ["batch", BOXES, 4]),
            helper.make_tensor_value_info("scores_in", TensorProto.FLOAT, ["batch", CLASSES, BOXES]),
        ],
        [
            helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", BOXES, 4]),
            helper.make_tensor_value_info("dense_boxes", TensorProto.FLOAT, ["batch", BOXES, 4]),
            helper.make_tensor_value_info("dense_scores", TensorProto.FLOAT, ["batch", CLASSES, BOXES]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    nms.append(model, "dense_boxes", "dense_scores", suppression, adjustable=adjustable)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(
    suppression: Suppression, boxes: torch.Tensor, scores: torch.Tensor
) -> dict[str, NDArray[np.generic]]:
    names = ["boxes", "scores", "classes"]
    feed = {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()}
    return dict(zip(names, session_for(suppression).run(names, feed), strict=True))


def random_detections(images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap a lot: [N,A,4] and scores [N,C,A]."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, BOXES, 2, generator=generator) * 40
    sizes = 20 + torch.rand(images, BOXES, 2, generator=generator) * 40
    scores = torch.rand(images, CLASSES, BOXES, generator=generator)
    return torch.cat([corners, corners + sizes], dim=-1), scores


def assert_same(actual: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]]) -> None:
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


@pytest.mark.parametrize("images", [1, 2, 7])
def test_the_graph_keeps_what_pytorch_keeps(images: int) -> None:
    suppression = Suppression(max_detections=80, min_score=0.3, iou_threshold=0.4)
    boxes, scores = random_detections(images)
    expected = nms.reference(boxes, scores, suppression)
    assert 0 < (expected["scores"] > 0).sum() < images * 80
    assert_same(run(suppression, boxes, scores), expected)


def test_only_the_best_remain_when_more_survive_than_there_are_rows() -> None:
    suppression = Suppression(max_detections=5, min_score=0.01, iou_threshold=0.9)
    boxes, scores = random_detections(3)
    expected = nms.reference(boxes, scores, suppression)
    assert (expected["scores"] > 0).all()
    assert_same(run(suppression, boxes, scores), expected)


def test_an_image_without_detections_gets_empty_rows_and_its_neighbour_keeps_its_own() -> None:
    suppression = Suppression(max_detections=10, min_score=0.5, iou_threshold=0.5)
    boxes, scores = random_detections(2)
    scores[0] = 0.4
    actual = run(suppression, boxes, scores)
    assert not actual["scores"][0].any()
    assert not actual["boxes"][0].any()
    assert not actual["classes"][0].any()
    assert_same(actual, nms.reference(boxes, scores, suppression))
    assert actual["scores"][1].any()


def test_no_detection_in_the_whole_batch_is_no_error() -> None:
    boxes, scores = random_detections(2)
    actual = run(Suppression(max_detections=10, min_score=0.99999), boxes, scores)
    assert actual["scores"].shape == (2, 10)
    assert not any(values.any() for values in actual.values())


def test_of_equal_boxes_one_a_class_survives() -> None:
    suppression = Suppression(max_detections=10, min_score=0.1, iou_threshold=0.5)
    boxes = torch.tensor([10.0, 10.0, 30.0, 30.0]).expand(1, BOXES, 4).contiguous()
    scores = torch.linspace(0.2, 0.9, CLASSES * BOXES).view(1, CLASSES, BOXES)
    actual = run(suppression, boxes, scores)
    assert (actual["scores"] > 0).sum() == CLASSES
    assert actual["classes"][0, :CLASSES].tolist() == [2, 1, 0]


def test_scores_descend() -> None:
    boxes, scores = random_detections(4)
    actual = run(Suppression(max_detections=30, min_score=0.2), boxes, scores)["scores"]
    assert (np.diff(actual, axis=1) <= 0).all()


def test_rows_that_could_never_be_filled_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot fill"):
        session_for(Suppression(max_detections=CLASSES * BOXES + 1))


def test_other_outputs_of_the_graph_stay() -> None:
    boxes, scores = random_detections(2)
    feed = {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()}
    (other,) = session_for(Suppression(max_detections=10)).run(["other"], feed)
    np.testing.assert_array_equal(other, boxes.numpy())


def test_an_adjustable_graph_takes_the_threshold_of_each_image_and_the_overlap_of_the_batch() -> None:
    opened = session_for(Suppression(max_detections=80, min_score=0.1, iou_threshold=0.9), adjustable=True)
    boxes, scores = random_detections(3)
    given = np.array([0.3, 0.0, 0.8], np.float32)
    feed = {
        "boxes_in": boxes.numpy(),
        "scores_in": scores.numpy(),
        "score_threshold": given,
        "iou_threshold": np.array([0.4], np.float32),
    }
    names = ["boxes", "scores", "classes"]
    actual = dict(zip(names, opened.run(names, feed), strict=True))
    # Nothing comes below the graph's own least score, whatever is asked for.
    for row, least in enumerate([0.3, 0.1, 0.8]):
        expected = nms.reference(
            boxes[row : row + 1],
            scores[row : row + 1],
            Suppression(max_detections=80, min_score=least, iou_threshold=0.4),
        )
        assert (expected["scores"] > 0).any()
        assert_same({name: values[row : row + 1] for name, values in actual.items()}, expected)


def test_an_adjustable_graph_does_what_its_suppression_says_when_fed_with_it() -> None:
    suppression = Suppression(max_detections=80, min_score=0.3, iou_threshold=0.4)
    boxes, scores = random_detections(2)
    feed = {"boxes_in": boxes.numpy(), "scores_in": scores.numpy(), **nms.thresholds(suppression, 2)}
    names = ["boxes", "scores", "classes"]
    actual = dict(zip(names, session_for(suppression, adjustable=True).run(names, feed), strict=True))
    assert_same(actual, nms.reference(boxes, scores, suppression))


@pytest.mark.parametrize(("least", "asked", "found"), [(0.25, 0.5, 1), (0.5, 0.25, 0)])
def test_detections_reach_what_is_asked_for_and_score_higher_than_the_graphs_least(
    least: float, asked: float, found: int
) -> None:
    boxes, scores = torch.tensor([0.0, 0, 5, 5]).expand(1, BOXES, -1), torch.zeros(1, CLASSES, BOXES)
    scores[0, 1, 2] = 0.5
    suppression = Suppression(max_detections=5, min_score=least)
    feed = {"boxes_in": boxes.numpy(), "scores_in": scores.numpy(), **nms.thresholds(suppression, 1)}
    feed["score_threshold"] = np.array([asked], np.float32)
    (answered,) = session_for(suppression, adjustable=True).run(["scores"], feed)
    assert (answered > 0).sum() == found


def test_of_equal_scores_the_first_fill_the_last_rows() -> None:
    boxes = torch.tensor([[10.0 * place, 0, 10.0 * place + 5, 5] for place in range(BOXES)]).expand(2, -1, -1)
    scores = torch.full((2, CLASSES, BOXES), 0.5)
    scores[1, 2, 7:30] = 0.75
    suppression = Suppression(max_detections=50)
    expected = nms.reference(boxes, scores, suppression)
    assert expected["classes"][0].tolist() == [0] * BOXES + [1] * 10
    for name, values in run(suppression, boxes.contiguous(), scores).items():
        np.testing.assert_array_equal(values, expected[name], name)
