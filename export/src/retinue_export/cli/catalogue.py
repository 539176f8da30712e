"""`retinue-export catalogue`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retinue_export.catalogue import report, rows, timm_sample
from retinue_export.catalogue.kept import KeptProofs
from retinue_export.cli.options import require_writable, write_page
from retinue_export.cli.show import console
from retinue_export.errors import ExportError, ParityError


def catalogue(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only these, as resnet18 or 'resnet*'; without names all.", show_default=False),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Export each with random weights, and compare it with PyTorch.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Where to write what --prove found, as Markdown.", dir_okay=False)
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            "--timm-sample",
            min=0,
            help="Also that many of timm's classifiers, drawn at random; without names only these.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="What --timm-sample draws with.")] = 0,
    proofs: Annotated[
        Path | None,
        typer.Option(
            help="A file that proofs are added to and taken from, so that an interrupted run goes on.",
            dir_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the architectures that can be exported, or prove that each can."""
    chosen = rows.matching(names or ([] if sample else ["*"]))
    if page is not None and not prove:
        raise ExportError("--page writes what was measured: give --prove too.")
    for path in (page, proofs):
        if path is not None:
            require_writable(path)
    drawn = timm_sample.draw(sample, seed)
    if not prove:
        report.list_rows(console, [*chosen, *drawn], as_json)
        return
    progress = Console(stderr=True, highlight=False)
    kept = KeptProofs(proofs)
    results = report.prove_all(progress, chosen, kept)
    of_sample = report.prove_all(progress, drawn, kept)
    if as_json:
        report.print_json(console, [results, of_sample])
    if page is not None:
        write_page(page, report.page(results, of_sample if sample else None))
    failed = len(results.failures) + len(of_sample.failures)
    if failed:
        raise ParityError(
            f"{failed} of {len(chosen) + len(drawn)} architectures are not exported as they should be."
        )
