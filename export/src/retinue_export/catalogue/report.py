"""The catalogue on the console, as JSON and as a page."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from retinue.v1 import manifest_pb2 as pb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retinue_export.catalogue.proof import BATCH_SIZES, LIMITS, Proof, prove
from retinue_export.catalogue.rows import Row, task_name
from retinue_export.errors import ExportError

_DISTANCES = {
    pb.TASK_CLASSIFY: "a probability",
    pb.TASK_SEGMENT: "the part of the pixels that have another class",
    pb.TASK_DETECT: "the part of the detections without counterpart: same class, IoU above 0.99, score within 0.001",
}


def _limits() -> str:
    return "\n".join(
        f"| {task_name(task)} | {_DISTANCES[task]} | {limits.allowed:g} | {limits.least_spread:g} |"
        for task, limits in LIMITS.items()
    )


_HEADING = f"""# The catalogue

Every architecture that `retinue-export` exports, written by `make catalogue`. Each was built with random weights, made
to answer something (constant weights drawn, normalisation statistics taken from photos, the last layers scaled),
exported with a dynamic batch, and compared with PyTorch on photos at batches of {", ".join(map(str, BATCH_SIZES))}.
Detectors are compared with torchvision's own answers, its post-processing included.

*Difference* is the largest found between PyTorch and ONNX Runtime, *spread* the same between PyTorch's own answers to
the two most similar of the photos: where it is small, a small difference means nothing. Weights are stored in 16
bits; the seconds are those of the export alone, on two cores.

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


def prove_all(console: Console, rows: Iterable[Row]) -> tuple[list[Proof], int]:
    """Proves each row and prints a line for it.

    Returns:
        The proofs, and how many rows have none.
    """
    proofs: list[Proof] = []
    failed = 0
    for row in rows:
        with console.status(row.name):
            try:
                proofs.append(prove(row))
            except ExportError as error:
                failed += 1
                console.print(f"[bold red]{row.name}[/]  {escape(str(error))}", soft_wrap=True)
                continue
        console.print(f"{row.name}  differs by {proofs[-1].difference:.1e} of {proofs[-1].spread:.2f}")
    return proofs, failed


def print_json(console: Console, proofs: Iterable[Proof]) -> None:
    """Prints what was measured."""
    console.print_json(
        data=[
            {
                **_described(proof.row),
                "parameters": proof.parameters,
                "difference": proof.difference,
                "spread": proof.spread,
                "file_bytes": proof.file_bytes,
                "export_seconds": round(proof.export_seconds, 1),
            }
            for proof in proofs
        ]
    )


def _described(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "source": row.source,
        "task": task_name(row.task),
        "side": row.side,
        "grey": row.grey,
    }


def page(proofs: Iterable[Proof]) -> str:
    """The page in Markdown."""
    engines = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "onnxruntime"))
    lines = [
        _HEADING,
        f"With {engines}.\n",
        "| network | source | task | input | parameters | MB | export s | difference | spread |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {proof.row.name} | {proof.row.source} | {task_name(proof.row.task)} | {proof.row.side} "
        f"| {proof.parameters / 1e6:,.2f} M | {proof.file_bytes / 1e6:,.1f} | {proof.export_seconds:.1f} "
        f"| {proof.difference:.1e} | {proof.spread:.2f} |"
        for proof in proofs
    ]
    return "\n".join(lines) + "\n"
