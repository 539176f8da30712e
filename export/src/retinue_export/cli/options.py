"""Options and arguments that several commands have."""

import os
import re
import secrets
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
    versions = [entry for entry in folder.iterdir() if entry.is_dir() and re.fullmatch("[0-9]+", entry.name)]
    return max(versions, key=lambda entry: int(entry.name), default=folder)


def require_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before work is done for it.

    Raises:
        ExportError: see there.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder} to write {path.name} to.")
    if path.is_dir():
        raise ExportError(f"{path} cannot be written: Is a directory.")
    if not os.access(path if _is_device(path) else folder, os.W_OK):
        raise ExportError(f"{path} cannot be written: the folder {folder} is not yours to write to.")


def write_page(path: Path, page: str) -> None:
    """Writes a page of HTML or Markdown; what is no text, such as a file's name of another encoding, becomes "?".

    Raises:
        ExportError: the file cannot be written.
    """
    write_file(path, page.encode("utf-8", errors="replace"))


def write_file(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it into place, so that it is there whole or as it was before.

    Raises:
        ExportError: the file cannot be written.
    """
    try:
        if _is_device(path):
            path.write_bytes(content)
            return
        target = path.resolve()
        aside = target.with_name(f".{secrets.token_hex(8)}")
        try:
            aside.write_bytes(content)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}.") from error


def _is_device(path: Path) -> bool:
    """Whether it is something like /dev/stdout, which nothing can be put in the place of."""
    return path.exists() and not path.is_file()
