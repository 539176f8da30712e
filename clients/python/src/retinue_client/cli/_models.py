"""`retinue models`: what the server has, and what becomes of it."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from retinue_client import Client, ImageError, ModelInfo, RetinueError
from retinue_client._address import resolve_address
from retinue_client._agreement import agreement
from retinue_client._promotion import PromotionError, ServingFile
from retinue_client.cli._console import console_for, named, plain
from retinue_client.cli._exit import EXIT_ALL_ANSWERED, EXIT_SOME_FAILED, fail
from retinue_client.cli._files import read_image
from retinue_client.cli._options import DEFAULT_SERVER, DEFAULT_TIMEOUT, Json, Server, Timeout, connect
from retinue_client.cli._show import failure_line, models_table, print_json

# To load one may take minutes: it is optimised and measured first.
_LOAD_TIMEOUT_SECONDS = 600.0
_IMAGES_AT_ONCE = 16
_MOST_LABELS = 5
# What the server measures or is told anew each time says nothing of the model.
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
    }
)

# As servers have it.
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]

models = typer.Typer(
    help="List the models that the server has, load and unload them, compare versions and say which answer.",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
)


@models.callback()
def _without_command(
    context: typer.Context,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
) -> None:
    """Without a command, list them."""
    if context.invoked_subcommand is None:
        list_models(server, timeout, as_json)


@models.command("list")
def list_models(
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is not served, and why; versions and states only.")
    ] = False,
) -> None:
    """List the models that are served."""
    with connect(server, timeout) as client:
        try:
            found: list[Any] = client.list_versions() if everything else client.list_models()
        except RetinueError as error:
            fail(error.message)
    if as_json:
        for one in found:
            print_json(one.to_dict())
    elif not found:
        console_for(sys.stderr).print(f"The server at {client.address} has no models.")
    elif not everything:
        console_for(sys.stdout).print(models_table(found))
    else:
        table = _table("name", "version", "state", "reason")
        for one in found:
            table.add_row(named(one.name), str(one.version), named(one.state), plain(one.reason))
        console_for(sys.stdout).print(table)


@models.command("load")
def load_model(
    name: Name,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = _LOAD_TIMEOUT_SECONDS,
) -> None:
    """Load a model, or what is new of it, from the server's models folder."""
    _control(server, timeout, lambda client: client.load_model(name))
    with connect(server, timeout) as client:
        try:
            versions = [one.version for one in client.list_models() if one.name == name]
        except RetinueError as error:
            fail(error.message)
    console_for(sys.stdout).print(
        f"{plain(name)} is served in version{'s' if len(versions) > 1 else ''} "
        f"{', '.join(map(str, sorted(versions)))}."
    )


@models.command("unload")
def unload_model(
    name: Name,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Take a model away, when what runs on it is done."""
    _control(server, timeout, lambda client: client.unload_model(name))
    console_for(sys.stdout).print(f"{plain(name)} is no longer served.")


@models.command("diff")
def diff_versions(
    name: Name,
    old: Annotated[int, typer.Argument(metavar="OLD", min=1, help="A version that is served.")],
    new: Annotated[int, typer.Argument(metavar="NEW", min=1, help="Another one.")],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Images to ask both about.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
) -> None:
    """Compare two versions of a model: what they say of themselves, and what they answer."""
    with connect(server, timeout) as client:
        try:
            versions = client.get_model(name, old), client.get_model(name, new)
            if images and versions[0].task != versions[1].task:
                fail(f"{name} answers another question in version {new} than in {old}: leave the images out.")
            differences = _differences(*versions)
            agreements, failed = _ask_both(client, versions, images or [])
        except RetinueError as error:
            fail(error.message)
    if as_json:
        print_json({"name": name, "old": old, "new": new, "fields": differences, "agreement": agreements})
    else:
        _print_differences(name, (old, new), differences, agreements)
    raise typer.Exit(EXIT_SOME_FAILED if failed else EXIT_ALL_ANSWERED)


@models.command(no_args_is_help=True)
def promote(
    name: Name,
    version: Annotated[
        int,
        typer.Argument(
            metavar="VERSION", min=1, max=999_999_999, help="The version that is to have the label."
        ),
    ],
    *,
    folder: Annotated[
        Path,
        typer.Option("--models", metavar="DIR", help="The models folder of the server.", show_default=False),
    ],
    label: Annotated[str, typer.Option("--label", help="Which label.")] = "stable",
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="Also have this server load the model, where calls control it; where it cannot, nothing is changed.",
        ),
    ] = None,
    timeout: Timeout = _LOAD_TIMEOUT_SECONDS,
) -> None:
    """Have a label name another version, in the model's serving.json, which is made where there is none.

    A server that watches its models folder takes it up within two seconds.
    """
    if _LABEL.fullmatch(label) is None:
        fail("--label: a label begins with a letter and has at most 64 letters, digits, '.', '_' and '-'.")
    try:
        address = None if server is None else resolve_address(server)
    except ValueError as exc:
        fail(f"--server: {exc}")
    try:
        file = ServingFile(folder, name)
        file.promote(version, label)
        if address is not None:
            _load_or_put_back(file, address, name, timeout)
    except PromotionError as error:
        fail(error.message)
    console_for(sys.stdout).print(f"{label} of {name} is version {version}.")


def _load_or_put_back(file: ServingFile, address: str, name: str, timeout: float) -> None:
    try:
        with connect(address, timeout) as client:
            client.load_model(name)
    except RetinueError as error:
        file.put_back()
        fail(f"{error.message} The label stays as it was.")


def _control(server: str, timeout: float, call: Callable[[Client], None]) -> None:
    with connect(server, timeout) as client:
        try:
            call(client)
        except RetinueError as error:
            fail(error.message)


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
            agreements[image] = agreement(first, second)
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
    versions: tuple[int, int],
    differences: dict[str, dict[str, Any]],
    agreements: dict[str, float],
) -> None:
    console = console_for(sys.stdout)
    if differences:
        table = _table("field", *(f"version {version}" for version in versions))
        for field, values in differences.items():
            table.add_row(field, *(_told(values[side], field) for side in ("old", "new")))
        console.print(table)
    else:
        console.print(f"{plain(name)} says the same of versions {versions[0]} and {versions[1]}.")
    if not agreements:
        return
    table = _table("image", "agreement")
    for image, share in sorted(agreements.items(), key=lambda pair: pair[1]):
        table.add_row(plain(image), f"{share:.1%}")
    console.print(table)
    mean = sum(agreements.values()) / len(agreements)
    console.print(Text(f"mean of {len(agreements)}: {mean:.1%}", "bold"))


def _told(value: Any, field: str) -> str:
    if field == "labels":
        more = f", ... ({len(value)})" if len(value) > _MOST_LABELS else ""
        return plain(", ".join(value[:_MOST_LABELS])) + more
    if field == "quality":
        return ", ".join(f"{named(entry['metric'])} {entry['value']:.3f}" for entry in value)
    return "" if value is None else named(str(value))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
