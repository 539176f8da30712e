"""How a command makes a bundle and shows it."""

from collections.abc import Callable
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb
from rich.markup import escape

from retinue_export import assembly
from retinue_export.cli.show import console, print_differences
from retinue_server.bundle import manifest as manifest_file


def build(candidate: Callable[[], assembly.Candidate], out: Path, version: int) -> None:
    """Builds what `candidate` gives, and prints what it has become."""
    with console.status("reading weights") as progress:
        made = candidate()
        folder = assembly.build(
            made, out, version, lambda stage: progress.update(f"{made.manifest.name}: {stage}")
        )
    print_bundle(folder)


def print_bundle(folder: Path) -> None:
    """Prints what a bundle that was just made has become."""
    manifest = manifest_file.read(folder)
    size = (folder / manifest_file.MODEL_FILE).stat().st_size
    console.print(f"[bold]{folder}[/]  {size / 1e6:.2f} MB, opset {manifest.opset}")
    console.print(f"  weights: {escape(manifest.source.weights)}", soft_wrap=True)
    for figure in manifest.quality:
        precision = pb.Precision.Name(figure.precision).removeprefix("PRECISION_").lower()
        console.print(
            f"  {figure.metric} {figure.value:.4f} on {figure.images} images ({figure.dataset}; "
            f"{figure.engine}, {precision})"
        )
    certificate = manifest.parity
    print_differences(manifest, certificate.outputs, certificate.images, certificate.batch_sizes)
