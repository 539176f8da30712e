"""The outputs of YOLO networks: which form they have, and what is put behind it.

Source: ultralytics, `engine/exporter.py` (`NMSModel`) and `nn/modules/head.py` (`Detect`); yolov5, `models/yolo.py`.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper

from retinue_export import nodes
from retinue_export.adoption.detection_heads import Candidates, ReplacedSuppression, Rows
from retinue_export.adoption.facts import Facts, Told
from retinue_export.adoption.heads import Head
from retinue_export.adoption.original import Original
from retinue_export.adoption.reading import Foreign, Value
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError

_MAX_DETECTIONS = 300
_DEFAULT_THRESHOLD = 0.25
_IOU_THRESHOLD = 0.7
_IOU_THRESHOLD_YOLOV5 = 0.45
ROW = 6
"""Columns of a finished detection: the box, score and class."""


def detector(
    foreign: Foreign,
    facts: Facts,
    told: Told,
    output: str,
    answer: NDArray[np.generic],
    yolov5: bool | None,
) -> Head:
    """What is put behind an output.

    Args:
        foreign: the file.
        facts: with the labels.
        told: with thresholds, if any.
        output: its name.
        answer: what it holds for one image, [1,...].
        yolov5: whether it is of YOLOv5, whose boxes have a score that there is an object at all; None where that is
            seen by the answer.

    Raises:
        ExportError: it has no form that is known, or does not fit the labels.
    """
    shape = answer.shape[1:]
    if len(shape) != 2:
        raise ExportError(
            f"{foreign.path} answers [N,{','.join(map(str, shape))}], which is no detector's output that is known "
            "here: [N,4+classes,boxes], [N,boxes,5+classes] or [N,rows,6]."
        )
    first, last = shape
    classes = len(facts.labels())
    if not yolov5 and last == ROW and first != 4 + classes and _are_whole(answer[..., 5]):
        return Rows(
            output=output,
            classes=classes,
            max_detections=min(told.max_detections or first, first),
            min_score=told.min_score,
            iou_threshold=1,
            default_threshold=told.score_threshold_or(_DEFAULT_THRESHOLD),
        )
    if not yolov5 and last == 4 + classes != first:
        raise ExportError(
            f"{foreign.path} answers [N,{first},4+{classes}], as Ultralytics exports RT-DETR, which cannot be adopted: "
            "take one of Hugging Face's."
        )
    objectness = yolov5
    if objectness is None:
        objectness = last == 5 + classes or (first != 4 + classes and first > last)
    facts.check_labels(last - 5 if objectness else first - 4)
    boxes = first if objectness else last
    usual_overlap = _IOU_THRESHOLD_YOLOV5 if objectness else _IOU_THRESHOLD
    return Candidates(
        output=output,
        classes=classes,
        candidates=boxes,
        channels_last=objectness,
        max_detections=min(told.max_detections or _MAX_DETECTIONS, boxes * classes),
        min_score=told.min_score,
        iou_threshold=usual_overlap if told.iou_threshold is None else told.iou_threshold,
        default_threshold=told.score_threshold_or(_DEFAULT_THRESHOLD),
    )


def without_suppression(
    foreign: Foreign, facts: Facts, told: Told, pixels: Pixels, output: str, rows: int
) -> ReplacedSuppression:
    """What is put in the place of the suppression that a file exported with `nms=True` has.

    That one works on as many images as the file was exported for. Its network's own answer, x1,y1,x2,y2 and scores
    [N,4+K,A], is found inside of the graph: it is turned over first of all.

    Raises:
        ExportError: it is not found.
    """
    graph = foreign.model.graph
    turned = [node.input[0] for node in graph.node if _turns_over(node)]
    classes = len(facts.labels())
    shapes = _shapes(foreign, pixels, turned)
    found = [name for name, shape in shapes.items() if len(shape) == 3 and shape[1] == 4 + classes]
    if len(found) != 1:
        raise ExportError(
            f"{foreign.path} has its own suppression, for the batch size that it was exported for, and where that "
            "begins cannot be seen: export it again without nms=True; adopt adds a suppression for any batch size."
        )
    iou, score = _thresholds(graph)
    if told.score_threshold is not None and told.score_threshold < score:
        raise ExportError(
            f"{foreign.path} drops what scores less than {score:g}: give a --score-threshold of at least that, or "
            "export it again without nms=True."
        )
    return ReplacedSuppression(
        output=found[0],
        finished=output,
        classes=classes,
        candidates=shapes[found[0]][2],
        channels_last=False,
        corners=True,
        max_detections=min(told.max_detections or rows, rows),
        min_score=score,
        iou_threshold=iou,
        default_threshold=told.score_threshold_or(score),
    )


def _are_whole(values: NDArray[np.generic]) -> bool:
    """Whether numbers can be classes, as those of finished detections are; scores are not, but for 0 and 1."""
    return not (values.astype(np.float64) % 1).any()


def _turns_over(node: NodeProto) -> bool:
    return node.op_type == "Transpose" and any(list(entry.ints) == [0, 2, 1] for entry in node.attribute)


def _shapes(foreign: Foreign, pixels: Pixels, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of values inside of a graph, by running it on a black image."""
    model = ModelProto()
    model.CopyFrom(foreign.model)
    own = {output.name for output in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in set(names) - own)
    spec = pixels.spec
    outputs = tuple(Value(name, 0, None) for name in dict.fromkeys(names))
    opened = replace(foreign, model=model, outputs=outputs)
    black = np.zeros((1, spec.height, spec.width, spec.channels), np.uint8)
    return {name: answer.shape for name, answer in Original(opened, pixels).answers(black).items()}


def _thresholds(graph: GraphProto) -> tuple[float, float]:
    """Overlap and score of a graph's suppression; Ultralytics' defaults where they are not seen."""
    constants = dict(nodes.constants(graph))

    def numbers(operator: str, place: int) -> list[float]:
        tensors = [
            constants[node.input[place]]
            for node in graph.node
            if node.op_type == operator and len(node.input) > place and node.input[place] in constants
        ]
        values = [numpy_helper.to_array(tensor) for tensor in tensors]
        return [
            float(value.reshape(-1)[0])
            for value in values
            if value.size == 1 and 0 < value.reshape(-1)[0] < 1
        ]

    overlap, score = numbers("NonMaxSuppression", 3), numbers("Greater", 1)
    return (overlap[0] if overlap else _IOU_THRESHOLD), (score[0] if score else _DEFAULT_THRESHOLD)
