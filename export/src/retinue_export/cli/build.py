"""How a command makes a bundle and shows it."""

from collections.abc import Callable
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb

from retinue_export import assembly, heatmaps
from retinue_export.cli.asked import Asked
from retinue_export.cli.show import console, plain, print_differences
from retinue_export.evidence import NoEvidenceError
from retinue_export.inspection import manifest_text
from retinue_server.bundle import manifest as manifest_file


def build(
    candidate: Callable[[], assembly.Candidate],
    out: Path,
    version: int,
    asked: Asked = Asked(),  # noqa: B008 (immutable)
    *,
    heatmap: bool = True,
) -> None:
    """Builds what `candidate` gives, and prints what it has become.

    Args:
        candidate: see `assembly.Candidate`.
        out: see `assembly.build`.
        version: see `assembly.build`.
        asked: in which number format.
        heatmap: whether to give a classifier a heatmap, where it can have one.
    """
    asked.check()
    why_no_heatmap = ""
    with console.status("reading weights") as progress:
        made, wanted = asked.read(candidate())
        if heatmap and made.manifest.task == pb.TASK_CLASSIFY:
            try:
                made = heatmaps.add(made)
            except NoEvidenceError as error:
                why_no_heatmap = str(error)
        folder = assembly.build(
            made,
            out,
            version,
            lambda stage: progress.update(f"{made.manifest.name}: {stage}"),
            wanted,
            lambda text: console.print(plain(text), style="yellow", soft_wrap=True),
        )
    print_bundle(folder)
    if why_no_heatmap:
        console.print(f"no heatmap: {plain(why_no_heatmap)}", soft_wrap=True)


def print_bundle(folder: Path) -> None:
    """Prints what a bundle that was just made has become."""
    manifest = manifest_file.read(folder)
    size = (folder / manifest_file.MODEL_FILE).stat().st_size
    precision = manifest_text.precision(manifest.precision)
    console.print(f"[bold]{plain(folder)}[/]  {size / 1e6:.2f} MB, opset {manifest.opset}, {precision}")
    facts = manifest_text.facts(manifest)
    for word in ("weights", "quantised", "speed"):
        if word in facts:
            console.print(f"  {word}: {plain(facts[word])}", soft_wrap=True)
    if manifest.classify.heatmap_height:
        console.print(f"  heatmap {manifest.classify.heatmap_height}x{manifest.classify.heatmap_width}")
    for figure in manifest.quality:
        console.print(
            f"  {plain(figure.metric)} {figure.value:.4f} on {figure.images} images ({plain(figure.dataset)}; "
            f"{plain(figure.engine)}, {manifest_text.precision(figure.precision)})",
            soft_wrap=True,
        )
    certificate = manifest.parity
    print_differences(manifest, certificate.outputs, certificate.images, certificate.batch_sizes)
