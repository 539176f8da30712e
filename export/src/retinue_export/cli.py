"""The command line: train, export and verify bundles."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from retinue.v1 import manifest_pb2 as pb
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from retinue_export import (
    assembly,
    bundle,
    input_options,
    parity,
    reference,
    torchvision_models,
    user_module,
    weight_files,
)
from retinue_export.errors import ExportError, ParityError
from retinue_export.input_options import Interpolation, UserTask
from retinue_export.recipes.catalog import RECIPES
from retinue_export.recipes.recipe import Recipe
from retinue_server.bundle import manifest as manifest_file
from retinue_server.errors import RetinueError
from retinue_server.vision.spec import ResizeMode

app = typer.Typer(
    help="Trains vision models in PyTorch and turns them into ONNX bundles that prove that they compute the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_console = Console(highlight=False)

Out = Annotated[
    Path, typer.Option("--out", help="The folder of all models; the bundle goes to OUT/NAME/VERSION.")
]
Version = Annotated[
    int, typer.Option("--version", help="The number of the version folder, which must not exist.")
]
FullPrecision = Annotated[
    bool, typer.Option("--full-precision", help="Keep weights in 32 bits instead of rounding to 16.")
]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one sentence and exit code 2, a failed comparison with 1."""
    try:
        app(arguments)
    except ExportError as error:
        _fail(str(error), error.exit_code)
    except RetinueError as error:
        _fail(error.message, ExportError.exit_code)


def _fail(message: str, exit_code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(exit_code)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}, or all.")],
    out: Out,
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(help="Do not train: read NAME.safetensors from this folder.", file_okay=False),
    ] = None,
    keep_weights: Annotated[
        Path | None, typer.Option(help="Also write the trained weights, NAME.safetensors, to this folder.")
    ] = None,
) -> None:
    """Train a model, or all of them, and write each as a bundle."""
    if name != "all" and name not in RECIPES:
        raise ExportError(f"There is no recipe {name!r}. There are {', '.join(RECIPES)}, and all.")
    recipes = list(RECIPES.values()) if name == "all" else [RECIPES[name]]
    for recipe in recipes:
        bundle.require_free(out, recipe.manifest.name, version)
    trained: dict[str, nn.Module] = {}
    for recipe in recipes:
        network = _read_trained(recipe, weights) if weights is not None else _trained(recipe, trained)
        if keep_weights is not None:
            keep_weights.mkdir(parents=True, exist_ok=True)
            save_file(network.state_dict(), keep_weights / f"{recipe.manifest.name}.safetensors")
        _build(partial(recipe.candidate, network), out, version)


@app.command()
def torchvision(
    architecture: Annotated[
        str, typer.Argument(help="torchvision's name of a classifier, such as mobilenet_v2.")
    ],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(help="A state dict saved by torch.save; without it torchvision's own is downloaded."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A text file, one label a line; without it torchvision's own.")
    ] = None,
    full_precision: FullPrecision = False,
) -> None:
    """Export one of torchvision's image classifiers as a bundle."""
    bundle.require_free(out, name, version)
    _build(
        lambda: torchvision_models.candidate(architecture, name, weights, labels, full_precision),
        out,
        version,
    )


@app.command()
def module(  # noqa: PLR0913 (a command's options are its parameters)
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:FUNCTION", help="What builds the torch.nn.Module when called without arguments."
        ),
    ],
    *,
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    labels: Annotated[Path, typer.Option(help="A text file, one label a line, by class id.")],
    size: Annotated[
        str, typer.Option(help="Rows and columns of the input: 224, or 240x320 (height x width).")
    ],
    mean: Annotated[
        str,
        typer.Option(help="For each channel, of levels in [0, 1]: what is subtracted, as 0.485,0.456,0.406."),
    ],
    std: Annotated[str, typer.Option(help="Likewise: what is divided by, as 0.229,0.224,0.225.")],
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file or one of torch.save's; without it those the module is built with."
        ),
    ] = None,
    task: Annotated[UserTask, typer.Option(help="What the module answers.")] = UserTask.CLASSIFY,
    grey: Annotated[bool, typer.Option("--grey", help="One channel of grey instead of RGB.")] = False,
    resize: Annotated[
        ResizeMode, typer.Option(help="How an image is brought to the size.")
    ] = ResizeMode.STRETCH,
    shorter_side: Annotated[
        int,
        typer.Option(
            help="For shorter_side_center_crop: what the shorter side is scaled to before the crop."
        ),
    ] = 0,
    interpolation: Annotated[
        Interpolation, typer.Option(help="The filter of the resizing.")
    ] = Interpolation.BILINEAR,
    pad_value: Annotated[
        int, typer.Option(min=0, max=255, help="For letterbox: the grey around the image.")
    ] = 0,
    full_precision: FullPrecision = False,
) -> None:
    """Export a network of your own: a Python file that builds it, and a file with its weights."""
    bundle.require_free(out, name, version)
    spec, normalisation = input_options.parse(
        size, mean, std, grey, resize, shorter_side, interpolation, pad_value
    )
    _build(
        lambda: user_module.candidate(
            target, name, task.in_manifest, spec, normalisation, labels, weights, full_precision
        ),
        out,
        version,
    )


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A version folder, or a model's folder.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="The weights file it was exported from; without it the bundle's own are used."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:FUNCTION", help="For a network of your own: what builds it."),
    ] = None,
) -> None:
    """Check a bundle's hash and manifest, compare it with PyTorch again, and print the certificate."""
    folder = _version_folder(folder)
    manifest = manifest_file.read(folder)
    manifest_file.check_hash(folder, manifest)
    with _console.status("comparing with PyTorch"):
        expected = reference.load(folder, manifest, weights, module)
        opened = parity.session((folder / manifest_file.MODEL_FILE).read_bytes())
        measured = parity.compare(expected.run, parity.runner(opened), expected.images)
    _print_certificate(folder, manifest, measured, expected)
    parity.check(measured)


@app.command()
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
    from retinue_export.catalogue import report, rows

    chosen = rows.matching(names or ["*"])
    if page is not None and not prove:
        raise ExportError("--page writes what was measured: give --prove too.")
    if page is not None and not page.parent.is_dir():
        raise ExportError(f"There is no folder {page.parent} to write {page.name} to.")
    if not prove:
        report.list_rows(_console, chosen, as_json)
        return
    proofs, failed = report.prove_all(Console(stderr=True, highlight=False), chosen)
    if as_json:
        report.print_json(_console, proofs)
    if page is not None:
        page.write_text(report.page(proofs), encoding="utf-8")
    if failed:
        raise ParityError(f"{failed} of {len(chosen)} architectures are not exported as they should be.")


def _version_folder(folder: Path) -> Path:
    """The folder itself, or the highest version in it."""
    if not folder.is_dir():
        raise ExportError(f"There is no bundle folder {folder}.")
    versions = [int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    return folder / str(max(versions)) if versions else folder


def _trained(recipe: Recipe, trained: dict[str, nn.Module]) -> nn.Module:
    """Trains a network, and before it those that it learns from, unless `trained` has it already."""
    name = recipe.manifest.name
    if name not in trained:
        before = [_trained(one, trained) for one in recipe.learns_from]
        trained[name] = _train(recipe, before)
    return trained[name]


def _train(recipe: Recipe, before: list[nn.Module]) -> nn.Module:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task(f"training {recipe.manifest.name}", total=None, loss=0.0)
        return recipe.train(
            lambda done, total, loss: progress.update(task, completed=done, total=total, loss=loss), *before
        )


def _read_trained(recipe: Recipe, folder: Path) -> nn.Module:
    name = recipe.manifest.name
    network = recipe.network()
    weight_files.load_into(network, weight_files.read(folder / f"{name}.safetensors"), name)
    return network.eval()


def _build(candidate: Callable[[], assembly.Candidate], out: Path, version: int) -> None:
    with _console.status("reading weights") as progress:
        made = candidate()
        folder = assembly.build(
            made, out, version, lambda stage: progress.update(f"{made.manifest.name}: {stage}")
        )
    manifest = manifest_file.read(folder)
    size = (folder / manifest_file.MODEL_FILE).stat().st_size
    _console.print(f"[bold]{folder}[/]  {size / 1e6:.2f} MB, opset {manifest.opset}")
    _console.print(f"  weights: {escape(manifest.source.weights)}", soft_wrap=True)
    for figure in manifest.quality:
        precision = pb.Precision.Name(figure.precision).removeprefix("PRECISION_").lower()
        _console.print(
            f"  {figure.metric} {figure.value:.4f} on {figure.images} images ({figure.dataset}; "
            f"{figure.engine}, {precision})"
        )
    _print_differences(manifest.parity, manifest.parity.outputs, manifest.parity.images)


def _print_certificate(
    folder: Path,
    manifest: pb.ModelManifest,
    measured: Sequence[pb.OutputParity],
    expected: reference.Reference,
) -> None:
    certificate = manifest.parity
    _console.print(f"[bold]{folder}[/]  sha256 {manifest.sha256[:16]}... as the manifest says")
    _console.print(f"  reference  {certificate.reference}", soft_wrap=True)
    _console.print(f"  weights    {expected.weights_from}", soft_wrap=True)
    _console.print(f"  inputs     {certificate.inputs}", soft_wrap=True)
    _console.print(f"  engines    {parity.engines()}; at export {certificate.engines}", soft_wrap=True)
    _print_differences(certificate, measured, len(expected.images))


def _print_differences(
    certificate: pb.ParityCertificate, measured: Sequence[pb.OutputParity], images: int
) -> None:
    sizes = ", ".join(map(str, parity.BATCH_SIZES))
    table = Table(
        title=f"differences from PyTorch, {images} images, batch sizes {sizes}",
        title_justify="left",
    )
    for heading in ("output", "largest", "mean", "allowed", "largest at export", "by rounding"):
        table.add_column(heading)
    recorded = {entry.output: entry.max_difference for entry in certificate.outputs}
    rounding = {entry.output: f"{entry.max_difference:.2g}" for entry in certificate.rounding}
    for entry in measured:
        table.add_row(
            entry.output,
            f"{entry.max_difference:.2g}",
            f"{entry.mean_difference:.2g}",
            f"{entry.tolerance:.2g}",
            f"{recorded[entry.output]:.2g}" if entry.output in recorded else "-",
            rounding.get(entry.output, "-"),
        )
    _console.print(table)
