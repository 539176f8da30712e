"""What is known of a foreign file's input and answers, and from where: the command line first, then the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retinue_export import input_options, label_files
from retinue_export.adoption.heads import Activation
from retinue_export.adoption.wrapping import Pixels
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task
from retinue_server.vision.spec import ResizeMode

GIVEN = "given"
_LEVELS = (
    "--mean and --std (what is subtracted and divided by, of levels in [0, 1]; 0,0,0 and 1,1,1 for none)"
)
_WANTED = {
    "size": "--size HEIGHTxWIDTH (the pixels that it was trained on)",
    "mean": _LEVELS,
    "std": _LEVELS,
    "resize": f"--resize ({', '.join(ResizeMode)}: how an image is brought to the size)",
    "interpolation": f"--interpolation ({', '.join(Interpolation)}: the filter of the resizing)",
    "labels": "--labels FILE (one name a line, by class id)",
    "task": "--task (classify, detect or segment)",
    "output": "--output NAME (which of its outputs is the answer)",
    "activation": "--softmax or --no-softmax (whether the answer is logits or probabilities already)",
}
_TOLD = ("size", "mean", "std", "resize", "shorter_side", "interpolation", "pad_value", "task", "output")
"""What the command line says in the words of a fact."""
_MIN_SCORE = 0.05
"""Of detectors whose file says nothing of it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the command line says; None or False where it says nothing.

    Attributes:
        task: what the graph answers.
        output: the name of the output that does.
        labels: a file of labels.
        softmax: whether the output is logits.
        size: see `input_options.parse`, as all that follow up to `bgr`.
        mean: one number a channel.
        std: likewise.
        grey: whether the graph takes one channel; where it says how many, that counts.
        resize: the geometry.
        shorter_side: in pixels.
        interpolation: the filter.
        pad_value: a grey level.
        bgr: whether the graph takes blue, green, red.
        preprocessor: Hugging Face's preprocessor_config.json.
        config: Hugging Face's config.json.
        native_map: whether a segmenter's class map stays as small as its logits are.
        max_detections: rows of a detector's outputs.
        iou_threshold: of its suppression.
        score_threshold: from which a detection is returned when a request names none.
    """

    task: Task | None = None
    output: str | None = None
    labels: Path | None = None
    softmax: bool | None = None
    size: str | None = None
    mean: str | None = None
    std: str | None = None
    grey: bool = False
    resize: ResizeMode | None = None
    shorter_side: int | None = None
    interpolation: Interpolation | None = None
    pad_value: int | None = None
    bgr: bool = False
    preprocessor: Path | None = None
    config: Path | None = None
    native_map: bool = False
    max_detections: int | None = None
    iou_threshold: float | None = None
    score_threshold: float | None = None

    @property
    def min_score(self) -> float:
        """Below which score nothing is a detection: never above the threshold that was told."""
        return min(_MIN_SCORE, self.score_threshold_or(_MIN_SCORE))

    def score_threshold_or(self, otherwise: float) -> float:
        """The threshold, or `otherwise` where none was told."""
        return otherwise if self.score_threshold is None else self.score_threshold


class Facts:
    """Facts by name, each with where it is from; the first to say one is believed.

    Args:
        file: the foreign file's name, for messages.
        told: what comes before anything else.
    """

    def __init__(self, file: str, told: Told) -> None:
        self._file = file
        self._known: dict[str, tuple[object, str]] = {}
        self.notes: list[str] = []
        """What a person should know of how the rest was found out."""
        for name in _TOLD:
            self.learn(GIVEN, **{name: getattr(told, name)})
        if told.resize is not None:  # what belongs to another rule means nothing
            self.learn(GIVEN, shorter_side=0, pad_value=0)
        self.learn(GIVEN, grey=told.grey or None, bgr=told.bgr or None)
        if told.softmax is not None:
            self.learn(GIVEN, activation=Activation.SOFTMAX if told.softmax else Activation.NONE)
        if told.labels is not None:
            self.learn(str(told.labels), labels=label_files.read(told.labels))

    def learn(self, source: str, **values: object) -> None:
        """Takes values that nobody has said before; None says nothing."""
        for name, value in values.items():
            if value is not None:
                self._known.setdefault(name, (value, source))

    def text(self, name: str) -> str | None:
        """A fact that is text."""
        value = self._known.get(name, (None, ""))[0]
        return None if value is None else str(value)

    def flag(self, name: str) -> bool:
        """A fact that is true or false; false where it is not known."""
        return bool(self._known.get(name, (False, ""))[0])

    def labels(self) -> tuple[str, ...]:
        """The names of classes, which must be known."""
        value = self._known["labels"][0]
        assert isinstance(value, tuple)
        return value

    def check_labels(self, classes: int) -> None:
        """Holds the number of labels against the number of classes that the graph has.

        Raises:
            ExportError: it is another.
        """
        if len(self.labels()) != classes:
            raise ExportError(
                f"{self._file} answers {classes} classes, but {self._known['labels'][1]} names {len(self.labels())}: "
                "give --labels with one line a class."
            )

    def require(self, *names: str) -> None:
        """Asks for everything that is missing at once.

        Raises:
            ExportError: something is.
        """
        wanted = dict.fromkeys(_WANTED[name] for name in names if name not in self._known)
        if wanted:
            raise ExportError(f"{self._file} does not say all that is needed. Give {'; '.join(wanted)}.")

    def pixels(self) -> Pixels:
        """How images are prepared.

        Raises:
            ExportError: facts are missing, or do not fit together.
        """
        self.require("size", "mean", "std", "resize", "interpolation", "labels")
        spec, normalisation = input_options.parse(
            self.text("size") or "",
            self.text("mean") or "",
            self.text("std") or "",
            self.flag("grey"),
            ResizeMode(self.text("resize") or ""),
            int(self.text("shorter_side") or 0),
            Interpolation(self.text("interpolation") or ""),
            int(self.text("pad_value") or 0),
        )
        return Pixels(spec, normalisation, self.flag("bgr") and not spec.grey)

    def lines(self) -> list[tuple[str, str, str]]:
        """Name, value and source of each, for people."""
        return [
            (name, _shown(value), source)
            for name, (value, source) in self._known.items()
            if value not in (False, 0)
        ]


def _shown(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    first: Sequence[str] = value[:3]
    return f"{len(value)} ({', '.join(first)}{', ...' if len(value) > 3 else ''})"
