"""What a job's rows and answers add up to: counts, classes, scores, and where the time went.

It takes a bounded amount of memory whatever the number of rows, is written down as JSON, and two of them can be added,
so that the parts of a job that was interrupted tell of the whole.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self, TypeAlias

from retinue_client._errors import ImageError
from retinue_client._plain import named, plain
from retinue_client._score.latency import Latencies
from retinue_client._score.rows import Result, Row
from retinue_client._urls import without_secrets

Stage: TypeAlias = Literal[
    "reading", "pace", "transport", "queue", "decoding", "inference", "postprocessing", "writing"
]
"""Where time goes, in the order in which an image meets it; see `Summary.stages`."""

STAGES: tuple[Stage, ...] = (
    *("reading", "pace", "transport", "queue"),
    *("decoding", "inference", "postprocessing", "writing"),
)
# In these nothing is done: they are long because another one is.
WAITS: frozenset[Stage] = frozenset({"pace", "queue"})
SCORE_BINS = 20
EXAMPLES_PER_REASON = 5
_MOST_CLASSES = 4096
_MOST_REASONS = 64
_MOST_CHARACTERS = 512
_OTHER_REASONS = "OTHER_REASONS"


class Summary:
    """How a job, or a part of one, went.

    It belongs to one thread at a time: `Account` sees to that.

    Attributes:
        scored: Rows with a result.
        failed: Rows with an error.
        reasons: How often each reason of an error occurred.
        examples: Of each reason the first few rows: what they are about, and the error's message.
        versions: How many rows each version of the model has answered.
        classes: By class id and label: of a classifier, how many images it is the best class of; of a detector, how
            many objects are of it; of a segmenter, how many images it is in.
        other_classes: The same for all classes beyond the first 4096 that were met.
        empty: Rows with a result that names no class at all.
        scores: How many scores lie in each twentieth of [0, 1]: of a classifier, of the best class of each image; of
            a detector, of each object.
        pixels: Of a segmenter, the pixels of each class.
        timed: How many images the server said of where their time went.
        batch_sizes: The sum of the sizes of the batches that these ran in.
        stages: Seconds that all images together took in each stage. "inference" is an image's share of the run of
            its batch; "transport" is what a request takes beyond the server's own time, "pace" how long it was held
            back because the server had no room for it.
        latencies: From sending a request until its answer, once for each of its images.
        seconds: How long it took, over all runs.
    """

    def __init__(self) -> None:
        self.scored = 0
        self.failed = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, str]]] = {}
        self.versions: Counter[int] = Counter()
        self.classes: Counter[tuple[int, str]] = Counter()
        self.other_classes = 0
        self.empty = 0
        self.scores = [0] * SCORE_BINS
        self.pixels: Counter[tuple[int, str]] = Counter()
        self.timed = 0
        self.batch_sizes = 0
        self.stages: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self.latencies = Latencies()
        self.seconds = 0.0

    @property
    def images(self) -> int:
        """Rows, with a result or without."""
        return self.scored + self.failed

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Counts rows as they are about to be written."""
        for row in rows:
            reason = row.get("error_reason")
            if reason is None:
                self.scored += 1
                self.versions[row["version"]] += 1
                self._count_result(row)
            else:
                self.failed += 1
                self._count_failure(named(reason), row["path"], row["error_message"])

    def add_answer(
        self, waited_seconds: float, took_seconds: float, outcomes: Sequence[Result | ImageError]
    ) -> None:
        """Counts the answer to a request.

        Args:
            waited_seconds: From when the request was ready until it was sent the time that it was answered.
            took_seconds: From then until the answer.
            outcomes: What became of each image.
        """
        timings = [outcome.timing for outcome in outcomes if not isinstance(outcome, ImageError)]
        self.latencies.add(took_seconds, count=len(outcomes))
        self.stages["pace"] += waited_seconds * len(outcomes)
        if timings:
            served_seconds = max(timing.total_us for timing in timings) / 1e6
            self.stages["transport"] += max(0.0, took_seconds - served_seconds)
        for timing in timings:
            batch_size = max(1, timing.batch_size)
            self.timed += 1
            self.batch_sizes += batch_size
            self.stages["queue"] += timing.queue_us / 1e6
            self.stages["decoding"] += timing.decode_us / 1e6
            self.stages["inference"] += timing.inference_us / batch_size / 1e6
            self.stages["postprocessing"] += timing.postprocess_us / 1e6

    def add_time(self, stage: Stage, seconds: float) -> None:
        """Counts time that passed in a stage."""
        self.stages[stage] += seconds

    def mean_ms(self, stage: Stage) -> float | None:
        """What a stage takes of an average image in milliseconds, or None where nothing is known of it."""
        images = self.images if stage in ("reading", "writing") else self.latencies.count
        if stage in ("queue", "decoding", "inference", "postprocessing"):
            images = self.timed
        return self.stages[stage] / images * 1000 if images else None

    def slowest_stage(self) -> Stage | None:
        """The stage in which an average image has most done to it, waiting not counted; None where there is none."""
        work = {
            stage: self.mean_ms(stage) or 0.0 for stage in STAGES if stage not in WAITS and self.stages[stage]
        }
        return max(work, key=work.__getitem__, default=None)

    def merge(self, other: "Summary") -> None:
        """Adds what another one has counted, of rows that come after these."""
        self.scored += other.scored
        self.failed += other.failed
        for reason, count in other.reasons.items():
            self._count_failures(reason, count, other.examples.get(reason, ()))
        self.versions.update(other.versions)
        for key, count in other.classes.items():
            self._count_class(key, count, other.pixels[key])
        self.other_classes += other.other_classes
        self.empty += other.empty
        self.scores = [mine + theirs for mine, theirs in zip(self.scores, other.scores, strict=True)]
        self.timed += other.timed
        self.batch_sizes += other.batch_sizes
        for stage in STAGES:
            self.stages[stage] += other.stages[stage]
        self.latencies.merge(other.latencies)
        self.seconds += other.seconds

    def state(self) -> dict[str, Any]:
        """All of it as values that JSON knows, for `from_state`."""
        return {
            "scored": self.scored,
            "failed": self.failed,
            "reasons": dict(self.reasons),
            "examples": {reason: [list(one) for one in found] for reason, found in self.examples.items()},
            "versions": sorted(self.versions.items()),
            "classes": [
                [class_id, label, count, self.pixels[class_id, label]]
                for (class_id, label), count in self.classes.items()
            ],
            "other_classes": self.other_classes,
            "empty": self.empty,
            "scores": self.scores,
            "timed": self.timed,
            "batch_sizes": self.batch_sizes,
            "stages": dict(self.stages),
            "latencies": self.latencies.state(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The summary that gave this state.

        Raises:
            ValueError: None did.
        """
        made = cls()
        try:
            for name in ("scored", "failed", "other_classes", "empty", "timed", "batch_sizes"):
                setattr(made, name, int(state[name]))
            examples = state["examples"]
            for reason, count in state["reasons"].items():
                found = [(str(about), str(message)) for about, message in examples.get(reason, ())]
                made._count_failures(reason, int(count), found)
            made.versions.update({int(version): int(count) for version, count in state["versions"]})
            for class_id, label, count, pixels in state["classes"]:
                made._count_class((int(class_id), str(label)), int(count), int(pixels))
            made.scores = [sum(pair) for pair in zip(made.scores, state["scores"], strict=True)]
            made.stages = {stage: float(state["stages"][stage]) for stage in STAGES}
            made.latencies = Latencies.from_state(state["latencies"])
            made.seconds = float(state["seconds"])
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"this is no summary: {exc!r}") from exc
        return made

    def _count_result(self, row: Row) -> None:
        if (classes := row.get("classes")) is not None:
            named_classes = [(entry, 0) for entry in classes[:1]]
        elif (detections := row.get("detections")) is not None:
            named_classes = [(entry, 0) for entry in detections]
        else:
            named_classes = [(entry, entry["area_pixels"]) for entry in row["areas"]]
        if not named_classes:
            self.empty += 1
        for entry, pixels in named_classes:
            self._count_class((entry["class_id"], entry["label"]), 1, pixels)
            if (score := entry.get("score")) is not None:
                self.scores[min(SCORE_BINS - 1, int(min(1.0, max(0.0, score)) * SCORE_BINS))] += 1

    def _count_class(self, key: tuple[int, str], count: int, pixels: int) -> None:
        if key not in self.classes:
            key = (key[0], named(key[1]))
            if key not in self.classes and len(self.classes) >= _MOST_CLASSES:
                self.other_classes += count
                return
        self.classes[key] += count
        if pixels:
            self.pixels[key] += pixels

    def _count_failure(self, reason: str, about: str, message: str) -> None:
        enough = len(self.examples.get(reason, ())) >= EXAMPLES_PER_REASON
        example = [] if enough else [(_shown(about), _shown(message))]
        self._count_failures(reason, 1, example)

    def _count_failures(self, reason: str, count: int, examples: Iterable[tuple[str, str]]) -> None:
        if reason not in self.reasons and len(self.reasons) >= _MOST_REASONS:
            reason = _OTHER_REASONS
        self.reasons[reason] += count
        kept = self.examples.setdefault(reason, [])
        kept.extend(list(examples)[: EXAMPLES_PER_REASON - len(kept)])


def _shown(text: str) -> str:
    return plain(without_secrets(text)[:_MOST_CHARACTERS])
