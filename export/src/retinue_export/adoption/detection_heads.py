"""Likewise for detectors: boxes are decoded, and the best of them become the rows of the bundle contract."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor

from retinue_export import nms
from retinue_export.adoption.heads import Head, as_float, check_ids, floats
from retinue_export.nms import Suppression
from retinue_export.nodes import Builder
from retinue_export.parity import Outputs

_END = np.iinfo(np.int64).max
_HEAD = "detections.head"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detections(Head):
    """What all detectors' heads have.

    Attributes:
        classes: how many kinds of things there are.
        max_detections: rows of each output of the bundle.
        min_score: detections must score higher, in [0, 1).
        iou_threshold: see `Suppression`; 1 where nothing is suppressed.
        default_threshold: the score from which a detection is returned when a request names none.
    """

    classes: int
    max_detections: int
    min_score: float
    iou_threshold: float
    default_threshold: float

    @property
    def options(self) -> frozenset[str]:
        """See `Head`."""
        return frozenset({"max_detections", "score_threshold"})

    @property
    def suppression(self) -> Suppression:
        """The same, as `nms` takes it."""
        return Suppression(self.max_detections, self.min_score, self.iou_threshold)

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Head`."""
        manifest.task = pb.TASK_DETECT
        manifest.detect.max_detections = self.max_detections
        manifest.detect.min_score = self.min_score
        manifest.detect.nms_iou_threshold = self.iou_threshold
        manifest.detect.default_score_threshold = self.default_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates(_Detections):
    """For the dense outputs of YOLO: suppression is added. A box counts for its best class only.

    Source: Ultralytics, `non_max_suppression` with `multi_label=False`, which is what its predictions use.

    Attributes:
        output: float [N,4+K,A], or where `channels_last` [N,A,5+K]: a box in input pixels, then the scores of K classes
            in [0, 1]; between them, in the second case, the score that there is an object at all.
        candidates: A.
        channels_last: which of the two, YOLOv5's being the second.
        corners: whether boxes are x1,y1,x2,y2; else they are the centre's x and y, width and height.
    """

    output: str
    candidates: int
    channels_last: bool
    corners: bool = False

    @property
    def options(self) -> frozenset[str]:
        """See `Head`."""
        return frozenset({"max_detections", "score_threshold", "iou_threshold"})

    @property
    def meaning(self) -> str:
        """See `Head`."""
        objectness = ", objectness" if self.channels_last else ""
        return f"{self.candidates} boxes{objectness} and scores of {self.classes} classes, to be suppressed"

    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """See `Head`."""
        builder = Builder(model.graph, _HEAD)
        answer = as_float(builder, prefix + self.output, half)
        if not self.channels_last:
            answer = builder.add("Transpose", answer, perm=[0, 2, 1])
        boxes = _part(builder, answer, 0, 4)
        if not self.corners:
            boxes = _cornered(builder, boxes)
        scores = _part(builder, answer, 5 if self.channels_last else 4, _END)
        if self.channels_last:
            scores = builder.add("Mul", scores, _part(builder, answer, 4, 5))
        scores = builder.add("Transpose", scores, perm=[0, 2, 1])
        if self.classes > 1:
            best = builder.add("ArgMax", scores, axis=1, keepdims=1)
            every = builder.constant("classes", np.arange(self.classes, dtype=np.int64).reshape(1, -1, 1))
            nothing = builder.constant("nothing", np.array(0, np.float32))
            scores = builder.add("Where", builder.add("Equal", best, every), scores, nothing)
        shapes = {boxes: [self.candidates, 4], scores: [self.classes, self.candidates]}
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *shape])
            for output, shape in shapes.items()
        )
        nms.append(model, boxes, scores, self.suppression, adjustable=True)

    def feeds(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Head`."""
        return nms.thresholds(self.suppression, len(images))

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Head`."""
        _Detections.describe(self, manifest)
        manifest.detect.adjustable_thresholds = True

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        answer = floats(answers[self.output])
        if not self.channels_last:
            answer = answer.transpose(1, 2)
        boxes = answer[..., :4] if self.corners else corners(answer[..., :4])
        scores = answer[..., 5:] * answer[..., 4:5] if self.channels_last else answer[..., 4:]
        best = torch.zeros_like(scores).scatter_(2, scores.argmax(dim=2, keepdim=True), 1)
        return nms.reference(boxes, (scores * best).transpose(1, 2), self.suppression)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(_Detections):
    """For finished detections: Ultralytics' networks that need no suppression, such as YOLOv10 and YOLO26.

    Attributes:
        output: float [N,R,6]: x1, y1, x2, y2 in input pixels, score in [0, 1], class; classes are whole numbers in
            [0, K), and rows of score 0 are empty.
    """

    output: str

    @property
    def meaning(self) -> str:
        """See `Head`."""
        return f"at most {self.max_detections} finished detections of {self.classes} classes"

    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """See `Head`."""
        builder = Builder(model.graph, _HEAD)
        answer = as_float(builder, prefix + self.output, half)
        score, kind = _column(builder, answer, 4), _column(builder, answer, 5)
        scores, places = _best(builder, score, self.max_detections)
        boxes = _picked(builder, _part(builder, answer, 0, 4), places)
        classes = builder.add("GatherElements", kind, places, axis=1)
        _finish(model, builder, self, boxes, scores, classes)

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        return _of_rows(floats(answers[self.output]), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedSuppression(Candidates):
    """For Ultralytics' exports with `nms=True`, which suppress image by image: that part is cut off and replaced.

    Source: Ultralytics, `NMSModel`.

    Attributes:
        finished: the graph's own output, [N,R,6] as of `Rows`, which the bundle is compared with. `output` is the value
            inside of the graph that its suppression begins with.
    """

    finished: str

    @property
    def options(self) -> frozenset[str]:
        """See `Head`; the overlap is the file's own."""
        return frozenset({"max_detections", "score_threshold"})

    @property
    def meaning(self) -> str:
        """See `Head`."""
        return f"suppressed detections of {self.classes} classes; suppression is replaced by one for any batch size"

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        return _of_rows(floats(answers[self.finished]), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries(_Detections):
    """For DETR and its relatives: one object a query, nothing to suppress.

    Source: transformers, `post_process_object_detection` of DETR (softmax, the best class of each query) and of RT-DETR
    (sigmoid, the best pairs of query and class).

    Attributes:
        logits: float [N,Q,K+1], the last for no object, or [N,Q,K] of independent classes.
        boxes: float [N,Q,4]: the centre's x and y, width and height, as parts of the input's.
        no_object: which of the two.
        height: rows of the input.
        width: its columns.
    """

    logits: str
    boxes: str
    no_object: bool
    height: int
    width: int

    @property
    def meaning(self) -> str:
        """See `Head`."""
        form = "and one for no object" if self.no_object else "each on its own"
        return f"logits of {self.classes} classes, {form}, and a box for each query"

    def append(self, model: ModelProto, prefix: str, half: bool) -> None:
        """See `Head`."""
        builder = Builder(model.graph, _HEAD)
        logits = as_float(builder, prefix + self.logits, half)
        size = np.array([self.width, self.height] * 2, np.float32)
        relative = _cornered(builder, as_float(builder, prefix + self.boxes, half))
        boxes = builder.add("Mul", relative, builder.constant("size", size))
        if self.no_object:
            chances = _part(builder, builder.add("Softmax", logits, axis=2), 0, self.classes)
            one = builder.constant("one", np.array([1], np.int64))
            of_query, class_of_query = builder.add_many("TopK", 2, chances, one, axis=2)
            last = builder.constant("last", np.array([2], np.int64))
            scores, places = _best(builder, builder.add("Squeeze", of_query, last), self.max_detections)
            kinds = builder.add("Squeeze", class_of_query, last)
            classes = builder.add("GatherElements", kinds, places, axis=1)
        else:
            pairs = builder.add("Flatten", builder.add("Sigmoid", logits), axis=1)
            scores, best = _best(builder, pairs, self.max_detections)
            count = builder.constant("classes", np.array(self.classes, np.int64))
            classes, places = builder.add("Mod", best, count), builder.add("Div", best, count)
        _finish(model, builder, self, _picked(builder, boxes, places), scores, classes)

    def reference(self, answers: Outputs) -> Outputs:
        """See `Head`."""
        logits = floats(answers[self.logits])
        boxes = corners(floats(answers[self.boxes])) * torch.tensor([self.width, self.height] * 2)
        if self.no_object:
            scores, classes = logits.softmax(dim=2)[..., :-1].max(dim=2)
            scores, places = _top(scores, self.max_detections)
            classes = classes.gather(1, places)
        else:
            scores, best = _top(logits.sigmoid().flatten(1), self.max_detections)
            places, classes = best // self.classes, best % self.classes
        return _present(boxes.take_along_dim(places.unsqueeze(2), dim=1), scores, classes, self.min_score)


def corners(boxes: Tensor) -> Tensor:
    """Centre's x and y, width and height, as x1,y1,x2,y2: both float32 [N,A,4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def _cornered(builder: Builder, boxes: str) -> str:
    """The same as nodes."""
    centre = _part(builder, boxes, 0, 2)
    half = builder.add(
        "Mul", _part(builder, boxes, 2, 4), builder.constant("half", np.array(0.5, np.float32))
    )
    return builder.add("Concat", builder.add("Sub", centre, half), builder.add("Add", centre, half), axis=2)


def _part(builder: Builder, values: str, begin: int, end: int) -> str:
    """Columns of [N,A,columns], as many dimensions."""
    places = [
        builder.constant(f"{values}.{begin}.{end}.{name}", np.array([value], np.int64))
        for name, value in (("begin", begin), ("end", end), ("axis", 2))
    ]
    return builder.add("Slice", values, *places)


def _column(builder: Builder, values: str, column: int) -> str:
    """A column of [N,A,columns]: [N,A]."""
    return builder.add(
        "Gather", values, builder.constant(f"column_{column}", np.array(column, np.int64)), axis=2
    )


def _best(builder: Builder, scores: str, rows: int) -> tuple[str, str]:
    """The highest of [N,A], and where they are, both [N,rows]."""
    count = builder.constant("rows", np.array([rows], np.int64))
    values, places = builder.add_many("TopK", 2, scores, count, axis=1)
    return values, places


def _picked(builder: Builder, boxes: str, places: str) -> str:
    """Boxes [N,A,4] at places [N,rows]."""
    last = builder.constant("last_axis", np.array([2], np.int64))
    return builder.add("GatherND", boxes, builder.add("Unsqueeze", places, last), batch_dims=1)


def _finish(
    model: ModelProto, builder: Builder, head: _Detections, boxes: str, scores: str, classes: str
) -> None:
    """Empties the rows that score too low, and names the outputs."""
    least = builder.constant("min_score", np.array(head.min_score, np.float32))
    present = builder.add("Greater", scores, least)
    column = builder.add("Unsqueeze", present, builder.constant("last_of_boxes", np.array([2], np.int64)))
    nothing = builder.constant("nothing", np.array(0, np.float32))
    no_class = builder.constant("no_class", np.array(0, np.int32))
    kinds = builder.add("Cast", classes, to=TensorProto.INT32)
    builder.add("Where", column, boxes, nothing, result="boxes")
    builder.add("Where", present, scores, nothing, result="scores")
    builder.add("Where", present, kinds, no_class, result="classes")
    rows = head.max_detections
    del model.graph.output[:]
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", rows, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", rows]),
            helper.make_tensor_value_info("classes", TensorProto.INT32, ["batch", rows]),
        ]
    )


def _top(scores: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The highest of [N,A], and where they are; of equal ones the first, as ONNX says of TopK and PyTorch does not."""
    values, places = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :rows], places[:, :rows]


def _of_rows(answer: Tensor, head: _Detections) -> Outputs:
    """The best rows of [N,R,6].

    Raises:
        ExportError: one of them is of a class that has no label.
    """
    scores, places = _top(answer[..., 4], head.max_detections)
    rows = answer.take_along_dim(places.unsqueeze(2), dim=1)
    check_ids(rows[..., 5][scores > head.min_score].numpy(), head.classes)
    return _present(rows[..., :4], scores, rows[..., 5], head.min_score)


def _present(boxes: Tensor, scores: Tensor, classes: Tensor, min_score: float) -> Outputs:
    """Likewise in PyTorch, of rows in descending order."""
    present = scores > min_score
    return {
        "boxes": torch.where(present.unsqueeze(2), boxes, 0).numpy(),
        "scores": torch.where(present, scores, 0).numpy(),
        "classes": torch.where(present, classes, 0).to(torch.int32).numpy(),
    }
