"""`retinue models diff`: two versions of a model, side by side."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from retinue_client import Client, ImageError, ModelInfo, RetinueError
from retinue_client._agreement import agreement
from retinue_client.cli._console import console_for, named, plain
from retinue_client.cli._exit import EXIT_ALL_ANSWERED, EXIT_SOME_FAILED, fail
from retinue_client.cli._files import images_inside, read_image
from retinue_client.cli._models_table import text_table
from retinue_client.cli._options import (
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    Json,
    ModelName,
    Server,
    Timeout,
    connect,
    parse_version,
)
from retinue_client.cli._show import failure_line, print_json

_IMAGES_AT_ONCE = 16
_MOST_LISTED = 5
# What the server measures or is told anew each time says nothing of the model, and neither does who is sent to it.
_OF_THE_SERVER = frozenset(
    {
        "version",
        "labels",
        "images_per_second",
        "lone_image_us",
        "alone_on_all_cores",
        "provider",
        "requested_provider",
        "fallback_reason",
        "runtime_version",
        "instances",
        "threads_per_instance",
        "version_labels",
        "traffic_percent",
        "sticky_key",
        "shadow_percent",
    }
)


def diff(
    name: ModelName,
    old: Annotated[
        Any,
        typer.Argument(metavar="OLD", parser=parse_version, help="A version that is served, or its label."),
    ],
    new: Annotated[Any, typer.Argument(metavar="NEW", parser=parse_version, help="Another one.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", help="Images to ask both about, or folders of them."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
) -> None:
    """Compare two versions of a model: what they say of themselves, and what they answer."""
    files = [file for image in images or () for file in _files(image)]
    with connect(server, timeout) as client:
        try:
            versions = client.get_model(name, old), client.get_model(name, new)
            if files and versions[0].task != versions[1].task:
                fail(f"{name} answers another question in version {new} than in {old}: leave the images out.")
            differences = _differences(*versions)
            agreements, failed = _ask_both(client, versions, files)
        except RetinueError as error:
            fail(error.message)
    if as_json:
        numbers = {"old": versions[0].version, "new": versions[1].version}
        print_json({"name": name, **numbers, "fields": differences, "agreement": agreements})
    else:
        titles = [
            f"version {version.version}" + (f" ({plain(asked)})" if isinstance(asked, str) else "")
            for version, asked in zip(versions, (old, new), strict=True)
        ]
        _print_differences(name, titles, differences, agreements)
    raise typer.Exit(EXIT_SOME_FAILED if failed else EXIT_ALL_ANSWERED)


def _files(image: str) -> list[str]:
    return images_inside(image) if Path(image).is_dir() else [image]


def _differences(old: ModelInfo, new: ModelInfo) -> dict[str, dict[str, Any]]:
    """The fields in which two versions differ, and of the labels those that only one has."""
    before, after = old.to_dict(), new.to_dict()
    found = {
        field: {"old": before[field], "new": after[field]}
        for field in before
        if field not in _OF_THE_SERVER and before[field] != after[field]
    }
    if old.labels != new.labels:
        # Several classes may have one label.
        gone, come = Counter(old.labels) - Counter(new.labels), Counter(new.labels) - Counter(old.labels)
        found["labels"] = {"old": sorted(gone.elements()), "new": sorted(come.elements())}
    return found


def _ask_both(
    client: Client, versions: tuple[ModelInfo, ModelInfo], images: list[str]
) -> tuple[dict[str, float], bool]:
    """How much both agree on each image, and whether some had no answer.

    Raises:
        RetinueError: A call as a whole has no answer.
    """
    agreements: dict[str, float] = {}
    failed = False
    same_classes = versions[0].labels == versions[1].labels
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        names = images[start : start + _IMAGES_AT_ONCE]
        contents = [read_image(name) for name in names]
        readable = [content for content in contents if isinstance(content, bytes)]
        answers = [iter(_ask(client, version, readable) if readable else []) for version in versions]
        for image, content in zip(names, contents, strict=True):
            first, second = (
                (content, content)
                if isinstance(content, ImageError)
                else (next(answers[0]), next(answers[1]))
            )
            if isinstance(first, ImageError) or isinstance(second, ImageError):
                error = first if isinstance(first, ImageError) else second
                assert isinstance(error, ImageError)
                console_for(sys.stderr).print(failure_line(image, error), soft_wrap=True)
                failed = True
                continue
            agreements[image] = agreement(first, second, same_classes=same_classes)
    return agreements, failed


def _ask(client: Client, version: ModelInfo, contents: list[bytes]) -> list[Any]:
    if version.task == "classify":
        return list(client.classify(contents, model=version.name, version=version.version, top_k=1))
    if version.task == "detect":
        return list(client.detect(contents, model=version.name, version=version.version))
    if version.task == "segment":
        return list(client.segment(contents, model=version.name, version=version.version))
    fail(f"{version.name} answers tensors, not images: leave the images out.")


def _print_differences(
    name: str,
    titles: list[str],
    differences: dict[str, dict[str, Any]],
    agreements: dict[str, float],
) -> None:
    console = console_for(sys.stdout)
    if differences:
        table = text_table("field", *titles)
        for field, values in differences.items():
            table.add_row(field, *(_told(values[side], field) for side in ("old", "new")))
        console.print(table)
    else:
        console.print(f"{plain(name)} says the same of {' and '.join(titles)}.")
    if not agreements:
        return
    table = text_table("image", "agreement")
    for image, share in sorted(agreements.items(), key=lambda pair: pair[1]):
        table.add_row(plain(image), f"{share:.1%}")
    console.print(table)
    mean = sum(agreements.values()) / len(agreements)
    console.print(Text(f"mean of {len(agreements)}: {mean:.1%}", "bold"))


def _told(value: Any, field: str) -> str:
    if field == "quality":
        return ", ".join(f"{named(entry['metric'])} {entry['value']:.3f}" for entry in value)
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > _MOST_LISTED else ""
        return ", ".join(map(named, value[:_MOST_LISTED])) + more
    return "" if value is None else named(str(value))
