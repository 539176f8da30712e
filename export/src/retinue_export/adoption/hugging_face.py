"""Files of Hugging Face's networks, as optimum exports them, with the two JSON files that belong to them.

Source: transformers and optimum: `OnnxConfig`s of `exporters/onnx/model_configs.py` for names and shapes.
"""

from collections.abc import Mapping
from pathlib import Path

from retinue_export.adoption import literals, preprocessor
from retinue_export.adoption.detection_heads import Queries
from retinue_export.adoption.facts import Facts, Told
from retinue_export.adoption.heads import Head
from retinue_export.adoption.layout import Layout
from retinue_export.adoption.reading import Foreign
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task
from retinue_export.parity import Outputs

_INPUT = "pixel_values"
_LOGITS = "logits"
_BOXES = "pred_boxes"
_MASKS = "pred_masks"
_DEFAULT_THRESHOLD = 0.5
_ONNX_FOLDER = "onnx"
"""Where the hub's repositories keep such files; the JSON files are in the folder above."""


class HuggingFace(Layout):
    """See the module."""

    name = "Hugging Face"
    batch_advice = "export it again with optimum-cli export onnx, whose files take any batch size"

    @staticmethod
    def matches(foreign: Foreign, told: Told) -> bool:
        """Whether a file is one of these."""
        return foreign.image.name == _INPUT or told.preprocessor is not None or told.config is not None

    def learn(self, facts: Facts) -> None:
        """See `Layout`."""
        self._check_outputs()
        prepared = self._beside("preprocessor_config.json", self.told.preprocessor)
        config = self._beside("config.json", self.told.config)
        if prepared is None:
            facts.notes.append("there is no preprocessor_config.json beside it: --preprocessor names one")
            facts.learn("by default", interpolation=Interpolation.BILINEAR)
        else:
            path, content = prepared
            found = preprocessor.read(content, self.foreign.channels or 3)
            facts.learn(path.name, **found.facts)
            facts.notes.extend(f"{path.name}: {note}" for note in found.notes)
        if config is None:
            facts.notes.append(
                "there is no config.json beside it, which names the classes: --config names one"
            )
        else:
            path, content = config
            facts.learn(path.name, labels=literals.names(content.get("id2label")))
            if content.get("problem_type") == "multi_label_classification":
                facts.learn(path.name, multi_label=True)

    def head(self, facts: Facts, pixels: Pixels, answers: Outputs) -> Head:
        """See `Layout`."""
        shape = self.shape(answers, _LOGITS)
        if _BOXES in answers:
            self.check_task(Task.DETECT)
            return self._queries(facts, pixels, shape, self.shape(answers, _BOXES))
        if len(shape) == 3:
            self.check_task(Task.SEGMENT)
            return self.segmenter(facts, pixels, answers, _LOGITS)
        self.check_task(Task.CLASSIFY)
        return self.classifier(facts, answers, _LOGITS)

    def _queries(
        self, facts: Facts, pixels: Pixels, shape: tuple[int, ...], boxes: tuple[int, ...]
    ) -> Queries:
        if len(shape) != 2 or boxes != (shape[0], 4):
            raise self.unknown(shape, "a detector's logits [N,queries,classes] with a box for each query")
        queries, columns = shape
        classes = len(facts.labels())
        if columns != classes:  # then one more must be for no object
            facts.check_labels(columns - 1)
        pairs = queries if columns != classes else queries * classes
        return Queries(
            logits=_LOGITS,
            boxes=_BOXES,
            classes=classes,
            no_object=columns != classes,
            height=pixels.spec.height,
            width=pixels.spec.width,
            max_detections=min(self.told.max_detections or queries, pairs),
            min_score=self.told.min_score,
            iou_threshold=1,
            default_threshold=self.told.score_threshold_or(_DEFAULT_THRESHOLD),
        )

    def _check_outputs(self) -> None:
        names = [output.name for output in self.foreign.outputs]
        if _MASKS in names:
            raise ExportError(
                f"{self.foreign.path} answers masks of its own (`{_MASKS}`), which cannot be adopted."
            )
        if _LOGITS not in names:
            raise ExportError(
                f"{self.foreign.path} has no output `{_LOGITS}`, but {', '.join(f'`{name}`' for name in names)}: "
                "export it for image-classification, object-detection or semantic-segmentation."
            )
        if self.told.output not in (None, _LOGITS):
            raise ExportError(
                f"{self.foreign.path} answers in `{_LOGITS}`, and --output says `{self.told.output}`: leave it out."
            )

    def _beside(self, name: str, told: Path | None) -> tuple[Path, Mapping[str, object]] | None:
        """One of the JSON files: the one that was named, or the one that lies there."""
        folder = self.foreign.path.parent
        usual = [folder / name]
        if folder.resolve().name == _ONNX_FOLDER:
            usual.append(folder.parent / name)
        path = told or next((path for path in usual if path.is_file()), None)
        return None if path is None else (path, literals.json_object(path))
