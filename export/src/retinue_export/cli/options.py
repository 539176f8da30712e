"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_export.errors import ExportError

Out = Annotated[
    Path, typer.Option("--out", help="The folder of all models; the bundle goes to OUT/NAME/VERSION.")
]
Version = Annotated[
    int, typer.Option("--version", help="The number of the version folder, which must not exist.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A .safetensors file or one of torch.save's; without it the library's own are downloaded.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="A text file, one label a line; without it the library's own."),
]
Heatmap = Annotated[
    bool,
    typer.Option(
        help="Let a classifier's graph also say where it sees what it names, where that can be had from the network."
    ),
]
BundleFolder = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A version folder, or a model's folder.", show_default=False)
]
HtmlPage = Annotated[
    Path | None, typer.Option("--html", help="Where to write it as a page for a browser.", dir_okay=False)
]


def version_folder(folder: Path) -> Path:
    """The folder itself, or the highest version in it."""
    if not folder.is_dir():
        raise ExportError(f"There is no bundle folder {folder}.")
    versions = [int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    return folder / str(max(versions)) if versions else folder


def require_writable(path: Path) -> None:
    """Refuses a file whose folder does not exist, before work is done for it."""
    if not path.parent.is_dir():
        raise ExportError(f"There is no folder {path.parent} to write {path.name} to.")


def write_page(path: Path, page: str) -> None:
    """Writes a page of HTML.

    Raises:
        ExportError: the file cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}.") from error
