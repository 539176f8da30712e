"""The catalogue on the console, as JSON and as a page."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from retinue.v1 import manifest_pb2 as pb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retinue_export.catalogue.kept import KeptProofs
from retinue_export.catalogue.proof import BATCH_SIZES, LIMITS, Proof, prove
from retinue_export.catalogue.rows import TWO_STAGE_DETECTIONS, TWO_STAGE_PROPOSALS, Row, task_name
from retinue_export.catalogue.timm_sample import MOST_PARAMETERS
from retinue_export.errors import ExportError

_DISTANCES = {
    pb.TASK_CLASSIFY: "a probability",
    pb.TASK_SEGMENT: "the part of the pixels that have another class",
    pb.TASK_DETECT: "the part of the detections without counterpart (same class, IoU above 0.99, score within 0.001), "
    "or of their masks' cells or keypoints, whichever is larger",
}


def _limits() -> str:
    return "\n".join(
        f"| {task_name(task)} | {_DISTANCES[task]} | {limits.allowed:g} | {limits.least_spread:g} |"
        for task, limits in LIMITS.items()
    )


_MOST_FOUND = TWO_STAGE_DETECTIONS.values()
_HEADING = f"""# The catalogue

Every architecture that `retinue-export` exports, written by `make catalogue`. Each was built with random weights, made
to answer something (constant weights drawn, normalisation statistics taken from photos, the last layers scaled),
exported with a dynamic batch, and compared with PyTorch on photos at batches of {", ".join(map(str, BATCH_SIZES))}.
torchvision's detectors are compared with torchvision's own answers, its post-processing included; two-stage ones look
at {TWO_STAGE_PROPOSALS} proposals there instead of 1,000, and find {min(_MOST_FOUND)} to {max(_MOST_FOUND)} things at
most. Other detectors are compared with their network in PyTorch and suppression in NumPy.

*Difference* is the largest found between PyTorch and ONNX Runtime, *spread* the same between PyTorch's own answers to
the two most similar of the photos: where it is small, a small difference means nothing. Weights are stored in 16
bits; the seconds are those of the export alone, with other work beside it.

| task | what differs | difference allowed | least spread |
|---|---|---:|---:|
{_limits()}
"""


def list_rows(console: Console, rows: Iterable[Row], as_json: bool) -> None:
    """Prints what there is."""
    if as_json:
        console.print_json(data=[_described(row) for row in rows])
        return
    table = Table("network", "source", "task", box=None)
    for row in rows:
        table.add_row(row.name, row.source, task_name(row.task))
    console.print(table)


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that is not exported as it should be.

    Attributes:
        row: see there.
        reason: what was wrong, for people.
    """

    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """What became of rows.

    Attributes:
        proofs: of those that are exported.
        failures: the others.
    """

    proofs: list[Proof]
    failures: list[Failure]


def prove_all(console: Console, rows: Iterable[Row], kept: KeptProofs) -> Results:
    """Proves each row that no proof is kept of, and prints a line for it."""
    results = Results([], [])
    for row in rows:
        proof = kept.find(row)
        if proof is None:
            with console.status(row.name):
                try:
                    proof = prove(row)
                except (
                    Exception
                ) as error:  # an architecture's own code may raise anything, and others are still to come
                    reason = (
                        str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
                    )
                    results.failures.append(Failure(row, " ".join(reason.split())))
                    console.print(f"[bold red]{row.name}[/]  {escape(reason)}", soft_wrap=True)
                    continue
            kept.add(proof)
            console.print(f"{row.name}  differs by {proof.difference:.1e} of {proof.spread:.2f}")
        results.proofs.append(proof)
    return results


def print_json(console: Console, results: Iterable[Results]) -> None:
    """Prints what was measured, and what went wrong with the rest."""
    data: list[dict[str, Any]] = []
    for part in results:
        data += [
            {
                **_described(proof.row),
                "parameters": proof.parameters,
                "difference": proof.difference,
                "spread": proof.spread,
                "file_bytes": proof.file_bytes,
                "export_seconds": round(proof.export_seconds, 1),
            }
            for proof in part.proofs
        ]
        data += [{**_described(failure.row), "failure": failure.reason} for failure in part.failures]
    console.print_json(data=data)


def _described(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "source": row.source,
        "task": task_name(row.task),
        "side": row.side,
        "grey": row.grey,
    }


def page(results: Results, sample: Results | None = None) -> str:
    """The page in Markdown.

    Args:
        results: of the catalogue.
        sample: of what was drawn from timm, if anything was.
    """
    names = ("torch", "torchvision", "timm", "onnxruntime")
    engines = ", ".join(f"{name} {version(name)}" for name in names)
    parts = [_HEADING, f"With {engines}.\n", *_tables(results)]
    if sample is not None:
        drawn = len(sample.proofs) + len(sample.failures)
        parts += [
            "\n## A random sample of timm\n",
            f"Of {drawn} classifiers drawn at random from all that timm has, those of more than "
            f"{MOST_PARAMETERS // 1_000_000} M parameters left out, {len(sample.proofs)} pass. Each was compared on "
            "the smallest input it runs on of those tried, the largest being the one it was made for.\n",
            *_tables(sample),
        ]
    return "\n".join(parts) + "\n"


def _tables(results: Results) -> list[str]:
    lines = [
        "| network | source | task | input | parameters | MB | export s | difference | spread |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {proof.row.name} | {proof.row.source} | {task_name(proof.row.task)} | {proof.row.side} "
        f"| {proof.parameters / 1e6:,.2f} M | {proof.file_bytes / 1e6:,.1f} | {proof.export_seconds:.1f} "
        f"| {proof.difference:.1e} | {proof.spread:.2f} |"
        for proof in results.proofs
    ]
    if results.failures:
        lines += ["\nNot exported as they should be:\n", "| network | source | task | input | reason |"]
        lines += ["|---|---|---|---:|---|"]
        lines += [
            f"| {failure.row.name} | {failure.row.source} | {task_name(failure.row.task)} | {failure.row.side} "
            f"| {failure.reason.replace('|', '/')} |"
            for failure in results.failures
        ]
    return lines
