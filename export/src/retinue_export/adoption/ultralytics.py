"""Files that Ultralytics' exporters write: YOLOv5, and YOLOv8 to YOLO26 of the package `ultralytics`.

Source: `engine/exporter.py` of ultralytics and `export.py` of yolov5 for metadata, names and shapes of the outputs;
`LetterBox` and `classify_transforms` of `data/augment.py` for how images are prepared.
"""

from retinue_export.adoption import literals, yolo
from retinue_export.adoption.facts import Facts
from retinue_export.adoption.heads import Head
from retinue_export.adoption.layout import Layout
from retinue_export.adoption.reading import Foreign, Value
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task, parse_size
from retinue_export.parity import Outputs
from retinue_server.vision.spec import ResizeMode

_LETTERBOX_LEVEL = 114
_IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
_LEVELS = {"mean": "0,0,0", "std": "1,1,1"}


class Ultralytics(Layout):
    """See the module."""

    name = "Ultralytics"
    batch_advice = "export it again with dynamic=True (YOLOv5: --dynamic)"

    @staticmethod
    def matches(foreign: Foreign) -> bool:
        """Whether a file is one of these."""
        return "names" in foreign.metadata and "stride" in foreign.metadata

    def learn(self, facts: Facts) -> None:
        """See `Layout`."""
        metadata = self.foreign.metadata
        task = self._task()
        facts.learn("its metadata", labels=literals.names(literals.literal(metadata["names"])))
        size = literals.integers(literals.literal(metadata.get("imgsz", "")), 2)
        facts.learn("its metadata", size=None if size is None else f"{size[0]}x{size[1]}")
        facts.learn("its metadata" if "task" in metadata else "its outputs", task=task)
        rule = "Ultralytics' rule"
        if task is Task.DETECT:
            facts.learn(rule, resize=ResizeMode.LETTERBOX, pad_value=_LETTERBOX_LEVEL)
            facts.notes.append(
                "Ultralytics shrinks images without antialiasing (OpenCV), here they are shrunk with it (Pillow)"
            )
        else:
            size_text = facts.text("size")
            height, width = (None, None) if size_text is None else parse_size(size_text)
            if height == width:
                facts.learn(rule, resize=ResizeMode.SHORTER_SIDE_CENTER_CROP, shorter_side=height)
            elif not self._is_yolov5:  # whose own predictions are of squares only
                facts.learn(rule, resize=ResizeMode.STRETCH)
        facts.learn(rule, interpolation=Interpolation.BILINEAR)
        levels = _IMAGENET if task is Task.CLASSIFY and self._is_yolov5 else _LEVELS
        grey = self.foreign.channels == 1
        facts.learn(
            rule, **({name: text.partition(",")[0] for name, text in levels.items()} if grey else levels)
        )

    def head(self, facts: Facts, pixels: Pixels, answers: Outputs) -> Head:
        """See `Layout`."""
        output = self._output.name
        if facts.text("task") == Task.CLASSIFY:
            return self.classifier(facts, answers, output)
        answer = self.answer(answers, output)
        arguments = literals.literal(self.foreign.metadata.get("args", ""))
        if isinstance(arguments, dict) and arguments.get("nms") and answer.shape[2:] == (yolo.ROW,):
            return yolo.without_suppression(self.foreign, facts, self.told, pixels, output, answer.shape[1])
        return yolo.detector(self.foreign, facts, self.told, output, answer, self._is_yolov5)

    @property
    def licence(self) -> str:
        """See `Layout`."""
        return self.foreign.metadata.get("license", "unknown")

    @property
    def _output(self) -> Value:
        """Its answer: the first of its outputs, where nothing was told."""
        first = self.foreign.outputs[0]
        return next((value for value in self.foreign.outputs if value.name == self.told.output), first)

    @property
    def _is_yolov5(self) -> bool:
        return "task" not in self.foreign.metadata

    def _task(self) -> Task:
        told = self.foreign.metadata.get("task")
        if told is None:
            by_shape = Task.CLASSIFY if len(self._output.shape or ()) == 2 else Task.DETECT
            told = self.told.task or by_shape
        if told not in (Task.CLASSIFY, Task.DETECT):
            raise ExportError(
                f"{self.foreign.path} is a network of Ultralytics for the task {told!r}: only detect and classify can "
                "be adopted."
            )
        self.check_task(Task(told))
        return Task(told)
