"""How a command makes a bundle and shows it."""

from collections.abc import Callable
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb
from rich.markup import escape

from retinue_export import assembly, heatmaps
from retinue_export.cli.show import console, print_differences
from retinue_export.evidence import NoEvidenceError
from retinue_server.bundle import manifest as manifest_file


def build(
    candidate: Callable[[], assembly.Candidate], out: Path, version: int, *, heatmap: bool = True
) -> None:
    """Builds what `candidate` gives, and prints what it has become.

    Args:
        candidate: see `assembly.Candidate`.
        out: see `assembly.build`.
        version: see `assembly.build`.
        heatmap: whether to give a classifier a heatmap, where it can have one.
    """
    why_no_heatmap = ""
    with console.status("reading weights") as progress:
        made = candidate()
        if heatmap and made.manifest.task == pb.TASK_CLASSIFY:
            try:
                made = heatmaps.add(made)
            except NoEvidenceError as error:
                why_no_heatmap = str(error)
        folder = assembly.build(
            made, out, version, lambda stage: progress.update(f"{made.manifest.name}: {stage}")
        )
    print_bundle(folder)
    if why_no_heatmap:
        console.print(f"no heatmap: {escape(why_no_heatmap)}", soft_wrap=True)


def print_bundle(folder: Path) -> None:
    """Prints what a bundle that was just made has become."""
    manifest = manifest_file.read(folder)
    size = (folder / manifest_file.MODEL_FILE).stat().st_size
    console.print(f"[bold]{folder}[/]  {size / 1e6:.2f} MB, opset {manifest.opset}")
    console.print(f"  weights: {escape(manifest.source.weights)}", soft_wrap=True)
    if manifest.classify.heatmap_height:
        console.print(f"  heatmap {manifest.classify.heatmap_height}x{manifest.classify.heatmap_width}")
    for figure in manifest.quality:
        precision = pb.Precision.Name(figure.precision).removeprefix("PRECISION_").lower()
        console.print(
            f"  {figure.metric} {figure.value:.4f} on {figure.images} images ({figure.dataset}; "
            f"{figure.engine}, {precision})"
        )
    certificate = manifest.parity
    print_differences(manifest, certificate.outputs, certificate.images, certificate.batch_sizes)
