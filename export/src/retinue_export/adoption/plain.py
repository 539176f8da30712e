"""Files of nobody in particular, whose input must be told; torchvision's exports are among them."""

from typing import NoReturn

from onnx import TensorProto

from retinue_export.adoption import yolo
from retinue_export.adoption.facts import Facts
from retinue_export.adoption.heads import Head
from retinue_export.adoption.layout import Layout
from retinue_export.adoption.reading import Value
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task
from retinue_export.parity import Outputs

_SEGMENTER_OUTPUT = "out"
"""What torchvision's segmenters call their answer; the other is for training."""


class Plain(Layout):
    """See the module."""

    name = "plain ONNX"

    def learn(self, facts: Facts) -> None:
        """See `Layout`."""
        outputs = {output.name: output for output in self.foreign.outputs}
        if _is_torchvision_detector(self.foreign.outputs):
            self._refuse_detector()
        if len(outputs) == 1 or _SEGMENTER_OUTPUT in outputs:
            facts.learn(
                "the graph", output=_SEGMENTER_OUTPUT if _SEGMENTER_OUTPUT in outputs else next(iter(outputs))
            )
        chosen = facts.text("output")
        if chosen is not None:
            facts.learn("its output's shape", task=_task(outputs[chosen]))
        elif len(outputs) > 1:
            facts.notes.append(f"its outputs are {', '.join(outputs)}")
        facts.learn("by default", interpolation=Interpolation.BILINEAR)
        facts.require(
            *("size", "mean", "std", "resize", "labels", "output"), *(["task"] if chosen is not None else [])
        )

    def head(self, facts: Facts, pixels: Pixels, answers: Outputs) -> Head:
        """See `Layout`."""
        output = facts.text("output") or ""
        task = Task(facts.text("task") or "")
        if task is Task.CLASSIFY:
            return self.classifier(facts, answers, output)
        if task is Task.SEGMENT:
            return self.segmenter(facts, pixels, answers, output)
        return yolo.detector(self.foreign, facts, self.told, output, self.answer(answers, output), None)

    def _refuse_detector(self) -> NoReturn:
        raise ExportError(
            f"{self.foreign.path} is one of torchvision's detectors as its own export makes them: it takes one image, "
            "and gives another number of rows for each. Export the network itself: retinue-export torchvision "
            "ARCHITECTURE --weights FILE."
        )


def _task(output: Value) -> Task | None:
    """What an output of this shape can only be."""
    dimensions = len(output.shape or ())
    whole = output.kind in (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)
    if whole:
        return Task.SEGMENT if dimensions in (3, 4) else None
    return {2: Task.CLASSIFY, 4: Task.SEGMENT}.get(dimensions)


def _is_torchvision_detector(outputs: tuple[Value, ...]) -> bool:
    """Boxes [D,4], labels [D] and scores [D], in torchvision's order for Faster R-CNN or RetinaNet."""
    boxes = [o for o in outputs if o.shape is not None and len(o.shape) == 2 and o.shape[1] == 4]
    labels = [o for o in outputs if o.kind == TensorProto.INT64 and len(o.shape or ()) == 1]
    scores = [o for o in outputs if o.kind == TensorProto.FLOAT and len(o.shape or ()) == 1]
    return len(outputs) >= 3 and bool(boxes and labels and scores)
