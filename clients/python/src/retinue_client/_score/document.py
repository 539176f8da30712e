"""What a job says of itself at the end, for programs: `_summary.json`."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from retinue_client._models import ModelInfo, Task
from retinue_client._score.disk import Disk
from retinue_client._score.summary import STAGES, WAITS, Summary

SUMMARY = "_summary.json"
FORMAT_VERSION = 1
PERCENTILES = (50, 90, 95, 99)
# What the counts of classes and the distribution of scores are of.
COUNTED: dict[Task, str] = {"classify": "images", "detect": "objects", "segment": "images"}


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a job is, as far as people want to know.

    Attributes:
        task: The question.
        source: Where the images come from, as it was given.
        destination: Where the results are.
        options: The question's options that were given.
        model: What the server says of the model.
        client: The version of this package.
    """

    task: Task
    source: str
    destination: str
    options: dict[str, Any]
    model: ModelInfo
    client: str


def document(facts: JobFacts, summary: Summary) -> dict[str, Any]:
    """The summary as values that JSON knows; docs/scoring-report.md says what each is."""
    return {
        "format_version": FORMAT_VERSION,
        "task": facts.task,
        "model": facts.model.name,
        "versions": {str(version): count for version, count in sorted(summary.versions.items())},
        "source": facts.source,
        "destination": facts.destination,
        "options": facts.options,
        "client": facts.client,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": summary.images,
        "scored": summary.scored,
        "failed": summary.failed,
        "errors": [
            {
                "reason": reason,
                "count": count,
                "examples": [
                    {"path": path, "message": message} for path, message in summary.examples[reason]
                ],
            }
            for reason, count in summary.reasons.most_common()
        ],
        "seconds": round(summary.seconds, 3),
        "images_per_second": round(summary.images / summary.seconds, 3) if summary.seconds > 0 else None,
        "latency_ms": latency_ms(summary),
        "stages_ms": {stage: _rounded(summary.mean_ms(stage)) for stage in STAGES if stage not in WAITS},
        "waits_ms": {stage: _rounded(summary.mean_ms(stage)) for stage in STAGES if stage in WAITS},
        "slowest_stage": summary.slowest_stage(),
        "mean_batch_size": _rounded(summary.batch_sizes / summary.timed) if summary.timed else None,
        "counted": COUNTED[facts.task],
        "classes": [
            {"class_id": class_id, "label": label, "count": count}
            | ({"area_pixels": summary.pixels[class_id, label]} if facts.task == "segment" else {})
            for (class_id, label), count in summary.classes.most_common()
        ],
        "other_classes": summary.other_classes,
        "empty": summary.empty,
        "score_bins": None if facts.task == "segment" else summary.scores,
    }


def latency_ms(summary: Summary) -> dict[str, float | None]:
    """Mean, percentiles and longest, from sending a request until its answer, each image counted once."""
    latencies = summary.latencies
    values = {"mean": latencies.mean()}
    values |= {f"p{share}": latencies.percentile(share / 100) for share in PERCENTILES}
    values["max"] = latencies.longest_seconds if latencies.count else None
    return {name: _rounded(None if value is None else value * 1000) for name, value in values.items()}


def write_summary(disk: Disk, facts: JobFacts, summary: Summary) -> dict[str, Any]:
    """Writes `_summary.json`, and returns what it says.

    Raises:
        OSError: It cannot be written.
    """
    values = document(facts, summary)
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # Names of files may have bytes that are no text: as escapes they are JSON all the same.
    disk.write(SUMMARY, text.encode("utf-8", "backslashreplace"))
    return values


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
