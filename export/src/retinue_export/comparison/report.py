"""A comparison on the console, as JSON and as a page."""

from dataclasses import asdict
from typing import Any

from retinue.v1 import manifest_pb2 as pb
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from retinue_export import pages
from retinue_export.comparison import drawing
from retinue_export.comparison.compare import Compared
from retinue_export.comparison.side import Side
from retinue_export.inspection import manifest_text
from retinue_export.quantities import printable

_PRINTED = 20
_DRAWN = 24
_LISTED_ON_A_PAGE = 500


def as_json(compared: Compared) -> dict[str, Any]:
    """Everything, for machines."""
    comparison = compared.comparison
    labels = comparison.labels
    return {
        "task": manifest_text.name_of(pb.Task.Name(comparison.a.manifest.task), "TASK_"),
        "a": _side(comparison.a),
        "b": _side(comparison.b),
        "labels": {
            "common": labels.common,
            "only_in_a": labels.only_in_a,
            "only_in_b": labels.only_in_b,
        },
        "images": comparison.images,
        "skipped": [asdict(skipped) for skipped in compared.skipped],
        "agreement": comparison.agreement,
        "figures": {figure.name: figure.value for figure in comparison.figures()},
        "classes": comparison.classes(),
        "differences": [asdict(difference) for difference in comparison.differences()],
    }


def print_report(console: Console, compared: Compared) -> None:
    """What matters, for people."""
    comparison = compared.comparison
    lines = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    lines.add_column(style="dim")
    lines.add_column(overflow="fold")
    lines.add_row("A", Text(_described(comparison.a)))
    lines.add_row("B", Text(_described(comparison.b)))
    lines.add_row("images", str(comparison.images))
    note = _label_note(compared)
    if note:
        lines.add_row("labels", note)
    for figure in comparison.figures():
        lines.add_row(figure.words, figure.text)
    console.print(lines)
    for skipped in compared.skipped:
        console.print(
            f"[yellow]skipped[/] {escape(printable(skipped.image))}: {escape(printable(skipped.reason))}",
            soft_wrap=True,
        )
    _print_table(
        console, "classes, those that differ most first", comparison.class_headings, comparison.class_rows()
    )
    rows = [comparison.row(difference) for difference in comparison.differences()]
    _print_table(console, f"differ: {len(rows)} of {comparison.images} images", comparison.headings, rows)


def page(compared: Compared) -> str:
    """A page of HTML that needs no other file."""
    comparison = compared.comparison
    differences = comparison.differences()
    return pages.render(
        "comparison.html",
        sides=(("A", comparison.a, _described(comparison.a)), ("B", comparison.b, _described(comparison.b))),
        figures=comparison.figures(),
        images=comparison.images,
        note=_label_note(compared),
        skipped=compared.skipped,
        note_on_colours=comparison.drawn_note,
        legend=comparison.legend(),
        headings=comparison.headings,
        drawn=[
            (
                comparison.row(difference),
                [drawing.data_uri(picture) for picture in compared.drawn(difference)],
            )
            for difference in differences[:_DRAWN]
        ],
        rows=[comparison.row(difference) for difference in differences[:_LISTED_ON_A_PAGE]],
        count=len(differences),
        class_headings=comparison.class_headings,
        class_rows=comparison.class_rows(),
    )


def _print_table(
    console: Console, title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]
) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows[:_PRINTED]:
        table.add_row(*(Text(printable(text)) for text in row))
    console.print(table)
    if len(rows) > _PRINTED:
        console.print(f" and {len(rows) - _PRINTED} more, which --json lists")


def _described(side: Side) -> str:
    manifest = side.manifest
    precision = manifest_text.precision(manifest.precision)
    return printable(f"{manifest.name}, {side.folder}, {precision}")


def _label_note(compared: Compared) -> str:
    labels = compared.comparison.labels
    if labels.are_the_same:
        return ""
    alone = (("only in A", labels.only_in_a), ("only in B", labels.only_in_b))
    return f"{labels.common} common, " + ", ".join(f"{len(names)} {where}" for where, names in alone)


def _side(side: Side) -> dict[str, Any]:
    return {
        "bundle": str(side.folder),
        "name": side.manifest.name,
        "sha256": side.manifest.sha256,
        "precision": manifest_text.precision(side.manifest.precision),
        "classes": len(side.manifest.labels),
    }
