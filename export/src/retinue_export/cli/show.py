"""What several commands print."""

from collections.abc import Sequence
from typing import Any

from retinue.v1 import manifest_pb2 as pb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retinue_export import bundle
from retinue_export.quantities import printable

console = Console(highlight=False, emoji=False)


def plain(text: object) -> str:
    """Text out of a file, or a path, so that Rich prints it as it is and no terminal is steered by it."""
    return escape(printable(str(text)))


def print_json(data: Any) -> None:
    """Prints JSON in ASCII, which holds text of any kind."""
    console.print_json(data=data, ensure_ascii=True)


def print_differences(
    manifest: pb.ModelManifest,
    measured: Sequence[pb.OutputParity],
    images: int,
    batch_sizes: Sequence[int],
    recorded: Sequence[pb.OutputParity] | None = None,
) -> None:
    """Prints what was measured beside what the certificate says.

    Args:
        manifest: the bundle's.
        measured: now.
        images: how many were compared now.
        batch_sizes: at which sizes.
        recorded: what was measured of the same graph at export; the certificate's `outputs` where it is None.
    """
    if not measured:
        console.print(f"{images} images, on which nothing was found: no differences to show")
        return
    certificate = manifest.parity
    sizes = ", ".join(map(str, batch_sizes))
    table = Table(
        title=f"differences from {bundle.other_side(manifest)}, {images} images, batch sizes {sizes}",
        title_justify="left",
    )
    for heading in ("output", "largest", "mean", "allowed", "largest at export", "by rounding"):
        table.add_column(heading)
    at_export = {entry.output: f"{entry.max_difference:.2g}" for entry in recorded or certificate.outputs}
    by_rounding = {entry.output: f"{entry.max_difference:.2g}" for entry in certificate.rounding}
    for entry in measured:
        table.add_row(
            plain(entry.output),
            f"{entry.max_difference:.2g}",
            f"{entry.mean_difference:.2g}",
            f"{entry.tolerance:.2g}",
            at_export.get(entry.output, "-"),
            by_rounding.get(entry.output, "-"),
        )
    console.print(table)
