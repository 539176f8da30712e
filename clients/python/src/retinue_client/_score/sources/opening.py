"""From what stands on the command line to a source."""

import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from retinue_client._errors import ImageError
from retinue_client._score.errors import SourceError
from retinue_client._score.sources.columns import Columns, CsvRecords, JsonlRecords, ListContainer
from retinue_client._score.sources.entry import Source
from retinue_client._score.sources.files import Contained, Container, ImageFiles, Listed, Names, Walked
from retinue_client._score.sources.lines import PathLines
from retinue_client._score.sources.parquet import ParquetContainer
from retinue_client._score.sources.pattern import expand, has_braces, has_wildcards, matcher, split_pattern
from retinue_client._score.sources.remote_tree import RemoteTree
from retinue_client._score.sources.standard_input import Pipe, StandardInput
from retinue_client._score.sources.tar import TarContainer
from retinue_client._score.sources.tree import LocalTree, Tree
from retinue_client._score.sources.values import Values
from retinue_client._score.sources.walk import any_file, looks_like_image
from retinue_client._urls import is_url, name_of, without_secrets

STANDARD_INPUT = "-"


class SourceFormat(StrEnum):
    """What a source's files are."""

    IMAGES = "images"
    TAR = "tar"
    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    PATHS = "paths"
    PATHS0 = "paths0"


_SUFFIXES = {
    SourceFormat.TAR: (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
    SourceFormat.PARQUET: (".parquet", ".pq"),
    SourceFormat.CSV: (".csv",),
    SourceFormat.JSONL: (".jsonl", ".ndjson"),
    SourceFormat.PATHS: (".txt", ".lst"),
    SourceFormat.PATHS0: (),
}


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        format: What its files are; None goes by their names.
        columns: Of lists, which columns are read.
        all_files: Take files whatever they are called, not only those with the suffix of an image format.
        leave_out: A folder that is taken for not being there: the results' own.
    """

    format: SourceFormat | None = None
    columns: Columns = field(default_factory=Columns)
    all_files: bool = False
    leave_out: Path | None = None


def open_source(text: str, options: SourceOptions) -> Source:
    """The source that somebody has named.

    Args:
        text: A folder, a file that holds or lists images, a pattern of either, a URL of any of these, or "-"; behind
            the name of a list may stand `::COLUMN`.
        options: How it is read.

    Raises:
        SourceError: There is no such thing, or it does not say what it is.
        OSError: It cannot be read.
    """
    if text == STANDARD_INPUT:
        return _standard_input(options)
    text, options = _with_column(text, options)
    remote = is_url(text)
    name = name_of(text) if remote else str(Path(text).absolute())
    if not remote and Path(text).exists():
        # Whatever it is called, it is there.
        return _existing(text, name, options)
    if has_wildcards(text) or has_braces(text):
        return _matching(text, name, options)
    if remote:
        return _existing(text, name, options)
    raise SourceError(f"{text!r} does not exist.")


def _with_column(text: str, options: SourceOptions) -> tuple[str, SourceOptions]:
    name, separator, column = text.rpartition("::")
    if not separator or "/" in column or Path(text).exists():
        return text, options
    if not column or options.columns.image not in (None, column):
        raise SourceError(f"{text!r} and --column name different columns.")
    columns = Columns(column, options.columns.key, options.columns.urls)
    return name, SourceOptions(options.format, columns, options.all_files, options.leave_out)


def _standard_input(options: SourceOptions) -> Source:
    if sys.stdin is None:
        raise SourceError("Standard input is closed.")
    file = _pipe(sys.stdin)
    kind = options.format or SourceFormat.PATHS
    values = Values(LocalTree(Path()), "", urls=options.columns.urls)
    if kind is SourceFormat.TAR:
        tar = TarContainer(all_files=options.all_files)
        return StandardInput(file, lambda file, begin: tar.entries_of(file, "", begin))
    if kind in (SourceFormat.CSV, SourceFormat.JSONL):
        records = CsvRecords() if kind is SourceFormat.CSV else JsonlRecords()
        listed = ListContainer(records, options.columns)
        return StandardInput(file, lambda file, begin: listed.entries_of(file, values, "-", begin))
    if kind in (SourceFormat.PATHS, SourceFormat.PATHS0):
        lines = _path_lines(kind, options)
        return StandardInput(file, lambda file, begin: lines.entries_of(file, values, "-", begin))
    raise SourceError(
        f"Standard input cannot be of the format {kind}: give paths, paths0, tar, csv or jsonl."
    )


def _pipe(stream: TextIO) -> BinaryIO:
    try:
        pipe: Any = Pipe(stream.fileno())
    except io.UnsupportedOperation:
        # What a program has put in its place.
        return stream.buffer
    return pipe  # type: ignore[no-any-return]


def _existing(text: str, name: str, options: SourceOptions) -> Source:
    """A folder or a file that is not a pattern."""
    if is_url(text):
        folder, _, last = text.rstrip("/").rpartition("/")
        if text.endswith("/") or not last or not _is_remote_file(folder, last):
            return _folder(text, name, RemoteTree(text), options)
        tree: Tree = RemoteTree(folder + "/")
    elif Path(text).is_dir():
        # At once, for a folder that cannot be listed is no source.
        next(Path(text).iterdir(), None)
        return _folder(text, name, LocalTree(Path(text), _left_out(Path(text), options)), options)
    else:
        tree, last = LocalTree(Path(text).parent), Path(text).name
    kind = options.format or _format_of(last)
    if kind is None:
        raise SourceError(
            f"{without_secrets(text)!r} is a file of no kind that its name tells: say it with --source-format."
        )
    return _source(name, tree, Listed(tree, [last]), kind, options)


def _is_remote_file(folder: str, last: str) -> bool:
    try:
        RemoteTree(folder + "/").size_bytes(last)
    except ImageError as error:
        if error.reason in ("FILE_NOT_REGULAR", "FILE_IS_A_FOLDER"):
            return False
        raise SourceError(f"{without_secrets(f'{folder}/{last}')}: {error.message}") from error
    return True


def _folder(text: str, name: str, tree: Tree, options: SourceOptions) -> Source:
    kind = options.format or SourceFormat.IMAGES
    if kind is SourceFormat.IMAGES:
        return ImageFiles(name, tree, Walked(tree, any_file if options.all_files else looks_like_image))
    if not _SUFFIXES[kind]:
        raise SourceError(f"{without_secrets(text)!r} is a folder, which the format {kind} cannot be.")
    return _source(name, tree, Walked(tree, partial(_is_part_of_a_set, _SUFFIXES[kind])), kind, options)


def _matching(text: str, name: str, options: SourceOptions) -> Source:
    """The files of a pattern, or those that braces alone stand for, in whose order they are then."""
    folder, pattern = split_pattern(text)
    if is_url(text):
        tree: Tree = RemoteTree(folder + "/")
    else:
        root = Path(folder)
        if not root.is_dir():
            raise SourceError(f"There is no folder {folder!r}.")
        tree = LocalTree(root, _left_out(root, options))
    kind = options.format or _format_of(expand(pattern)[0] if has_braces(pattern) else pattern)
    if has_wildcards(pattern):
        of_images = kind in (None, SourceFormat.IMAGES) and not options.all_files
        names: Names = Walked(tree, _matches(matcher(pattern), looks_like_image if of_images else any_file))
    else:
        names = Listed(tree, expand(pattern))
    return _source(name, tree, names, kind or SourceFormat.IMAGES, options)


def _source(name: str, tree: Tree, names: Names, kind: SourceFormat, options: SourceOptions) -> Source:
    if kind is SourceFormat.IMAGES:
        return ImageFiles(name, tree, names)
    containers: dict[SourceFormat, Callable[[], Container]] = {
        SourceFormat.TAR: lambda: TarContainer(all_files=options.all_files),
        SourceFormat.PARQUET: lambda: ParquetContainer(options.columns),
        SourceFormat.CSV: lambda: ListContainer(CsvRecords(), options.columns),
        SourceFormat.JSONL: lambda: ListContainer(JsonlRecords(), options.columns),
    }
    make = containers.get(kind, lambda: _path_lines(kind, options))
    return Contained(name, tree, names, make())


def _path_lines(kind: SourceFormat, options: SourceOptions) -> PathLines:
    end = b"\0" if kind is SourceFormat.PATHS0 else b"\n"
    return PathLines(urls=options.columns.urls, end=end)


def _format_of(name: str) -> SourceFormat | None:
    lower = name.lower()
    for kind, suffixes in _SUFFIXES.items():
        if suffixes and lower.endswith(suffixes):
            return kind
    return SourceFormat.IMAGES if looks_like_image(name) else None


def _matches(pattern: re.Pattern[str], wanted: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda path: pattern.fullmatch(path) is not None and wanted(path)


def _is_part_of_a_set(suffixes: tuple[str, ...], path: str) -> bool:
    """Readers of data sets pass over names that begin with `_` or a dot."""
    hidden = any(part.startswith(("_", ".")) for part in path.split("/"))
    return not hidden and path.lower().endswith(suffixes)


def _left_out(root: Path, options: SourceOptions) -> frozenset[str]:
    if options.leave_out is None:
        return frozenset()
    own, top = options.leave_out.resolve(), root.resolve()
    return frozenset({own.relative_to(top).as_posix()}) if own.is_relative_to(top) else frozenset()
