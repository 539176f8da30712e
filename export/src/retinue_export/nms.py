"""Non-maximum suppression as ONNX nodes: batched, per class, without loops, with a fixed number of rows out.

A detector's dense part (network and box decoding) exports from PyTorch with a dynamic batch; what follows it in PyTorch
does not, since every image has another number of detections. Here that part is written as ONNX nodes instead, the same
for every detector, and once more in PyTorch as what it is compared with.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor
from torchvision.ops import batched_nms

from retinue_export.nodes import Builder, output_shapes

SCORE_THRESHOLD = "score_threshold"
IOU_THRESHOLD = "iou_threshold"
"""Names of the inputs that an adjustable graph has beside `images`."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """Which detections a graph returns.

    Attributes:
        max_detections: rows of every output; the best ones are kept.
        min_score: detections must score higher, in [0, 1).
        iou_threshold: of two boxes of one class that overlap more than this the better is kept, in [0, 1].
    """

    max_detections: int = 100
    min_score: float = 0.05
    iou_threshold: float = 0.6


def append(
    dense: onnx.ModelProto,
    boxes: str,
    scores: str,
    suppression: Suppression,
    results: tuple[str, str, str] = ("boxes", "scores", "classes"),
    *,
    adjustable: bool = False,
) -> None:
    """Puts suppression behind a dense graph, in place.

    Args:
        dense: the graph; opset 13 or later.
        boxes: name of its output float32 [N,A,4], x1,y1,x2,y2.
        scores: name of its output float32 [N,C,A], in [0, 1].
        suppression: see there.
        results: names of what takes the place of these two outputs: boxes float32 [N,M,4], scores float32 [N,M],
            descending, and classes int32 [N,M]. Rows past the last detection are all 0. Other outputs stay.
        adjustable: whether the graph gets two inputs more: `score_threshold` float32 [N], one an image, which
            detections must reach, while they must still score higher than `suppression.min_score`; and `iou_threshold`
            float32 [1], which is used instead of `suppression`'s.

    Raises:
        ValueError: the graph has fewer pairs of box and class than there are rows to fill.
    """
    class_count, box_count = output_shapes(dense.graph)[scores][1:]
    builder = _Builder(dense.graph, f"{results[0]}.nms")
    rows = suppression.max_detections
    if class_count * box_count < rows:
        raise ValueError(f"{box_count} boxes of {class_count} classes cannot fill {rows} rows")
    if adjustable:
        candidates = _above_threshold(builder, scores)
        iou_threshold = builder.input(IOU_THRESHOLD, [1])
    else:
        candidates = scores
        iou_threshold = builder.constant(IOU_THRESHOLD, np.array([suppression.iou_threshold], np.float32))
    selected = builder.add(
        "NonMaxSuppression",
        boxes,
        candidates,
        builder.constant("max_boxes_per_class", np.array([rows], np.int64)),
        iou_threshold,
        builder.constant("min_score", np.array([suppression.min_score], np.float32)),
    )
    _take_best(builder, boxes, scores, selected, box_count, rows, results)
    kept = [output for output in dense.graph.output if output.name not in (boxes, scores)]
    del dense.graph.output[:]
    dense.graph.output.extend(
        [
            helper.make_tensor_value_info(results[0], TensorProto.FLOAT, ["batch", rows, 4]),
            helper.make_tensor_value_info(results[1], TensorProto.FLOAT, ["batch", rows]),
            helper.make_tensor_value_info(results[2], TensorProto.INT32, ["batch", rows]),
            *kept,
        ]
    )


def _above_threshold(builder: "_Builder", scores: str) -> str:
    """Scores, 0 where they are below their image's threshold."""
    threshold = builder.add(
        "Unsqueeze",
        builder.input(SCORE_THRESHOLD, ["batch"]),
        builder.constant("class_and_box", np.array([1, 2], np.int64)),
    )
    return builder.add("Where", builder.add("GreaterOrEqual", scores, threshold), scores, builder.zero)


def _take_best(
    builder: "_Builder",
    boxes: str,
    scores: str,
    selected: str,
    box_count: int,
    rows: int,
    results: tuple[str, str, str],
) -> None:
    """Takes the best rows of each image from what suppression has left."""
    # `selected` lists image, class and box of each survivor: exactly an index into the scores. All others become 0, so
    # that the best rows of every image can be taken from a tensor of fixed shape.
    nothing = builder.add("ConstantOfShape", builder.add("Shape", scores))
    survivors = builder.add("ScatterND", nothing, selected, builder.add("GatherND", scores, selected))
    flat = builder.add("Flatten", survivors, axis=1)
    top_scores, top_pairs = builder.add_many(
        "TopK", 2, flat, builder.constant("rows", np.array([rows], np.int64)), axis=1
    )
    per_class = builder.constant("boxes_per_class", np.array(box_count, np.int64))
    picked = builder.add("Unsqueeze", builder.add("Mod", top_pairs, per_class), builder.last_axis)
    top_boxes = builder.add("GatherND", boxes, picked, batch_dims=1)
    present = builder.add("Greater", top_scores, builder.zero)
    column = builder.add("Unsqueeze", present, builder.last_axis)
    builder.add("Mul", top_boxes, builder.add("Cast", column, to=TensorProto.FLOAT), result=results[0])
    builder.add("Identity", top_scores, result=results[1])
    top_classes = builder.add("Cast", builder.add("Div", top_pairs, per_class), to=TensorProto.INT32)
    builder.add("Mul", top_classes, builder.add("Cast", present, to=TensorProto.INT32), result=results[2])


def thresholds(suppression: Suppression, images: int) -> dict[str, NDArray[np.generic]]:
    """What an adjustable graph is fed with so that it does what `suppression` says.

    Args:
        suppression: see there.
        images: how many the batch has, N.

    Returns:
        `score_threshold` float32 [N], and `iou_threshold` float32 [1].
    """
    return {
        SCORE_THRESHOLD: np.full(images, suppression.min_score, np.float32),
        IOU_THRESHOLD: np.array([suppression.iou_threshold], np.float32),
    }


def reference(boxes: Tensor, scores: Tensor, suppression: Suppression) -> dict[str, NDArray[np.generic]]:
    """Does in PyTorch, image by image, what `append` does in ONNX.

    Of equal scores the lower class goes first, then the lower box, as ONNX says of TopK: where there are more
    detections than rows, this decides which are returned.

    Args:
        boxes: float32 [N,A,4], x1,y1,x2,y2.
        scores: float32 [N,C,A], in [0, 1].
        suppression: see there.

    Returns:
        `boxes`, `scores` and `classes` as `append` describes them.
    """
    rows = suppression.max_detections
    out_boxes = np.zeros((len(boxes), rows, 4), np.float32)
    out_scores = np.zeros((len(boxes), rows), np.float32)
    out_classes = np.zeros((len(boxes), rows), np.int32)
    for number, (image_boxes, image_scores) in enumerate(zip(boxes, scores, strict=True)):
        classes, places = torch.nonzero(image_scores > suppression.min_score, as_tuple=True)
        pair_scores, pair_boxes = image_scores[classes, places], image_boxes[places]
        survivors = batched_nms(pair_boxes, pair_scores, classes, suppression.iou_threshold).sort().values
        kept = survivors[pair_scores[survivors].argsort(descending=True, stable=True)][:rows]
        out_boxes[number, : len(kept)] = pair_boxes[kept].numpy()
        out_scores[number, : len(kept)] = pair_scores[kept].numpy()
        out_classes[number, : len(kept)] = classes[kept].numpy()
    return {"boxes": out_boxes, "scores": out_scores, "classes": out_classes}


class _Builder(Builder):
    """Adds nodes, and has the two constants that most of them need."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        super().__init__(graph, prefix)
        self.last_axis = self.constant("last_axis", np.array([-1], np.int64))
        self.zero = self.constant("zero", np.array(0, np.float32))
