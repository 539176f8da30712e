"""`retinue-export catalogue`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retinue_export.catalogue import report, rows
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the architectures that can be exported, or prove that each can."""
    chosen = rows.matching(names or ["*"])
    if page is not None and not prove:
        raise ExportError("--page writes what was measured: give --prove too.")
    if page is not None and not page.parent.is_dir():
        raise ExportError(f"There is no folder {page.parent} to write {page.name} to.")
    if not prove:
        report.list_rows(console, chosen, as_json)
        return
    proofs, failed = report.prove_all(Console(stderr=True, highlight=False), chosen)
    if as_json:
        report.print_json(console, proofs)
    if page is not None:
        page.write_text(report.page(proofs), encoding="utf-8")
    if failed:
        raise ParityError(f"{failed} of {len(chosen)} architectures are not exported as they should be.")
