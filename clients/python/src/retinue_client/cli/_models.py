"""`retinue models`: what the server has, and what becomes of it."""

import sys
from typing import Annotated, Any

import typer

from retinue_client import RetinueError
from retinue_client.cli._console import console_for, named, plain
from retinue_client.cli._diff import diff
from retinue_client.cli._exit import fail
from retinue_client.cli._models_table import models_table, text_table
from retinue_client.cli._options import (
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    LOAD_TIMEOUT_SECONDS,
    Json,
    ModelName,
    Server,
    Timeout,
    connect,
)
from retinue_client.cli._promote import promote
from retinue_client.cli._show import print_json

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
        table = text_table("name", "version", "state", "reason")
        for one in found:
            table.add_row(named(one.name), str(one.version), named(one.state), plain(one.reason))
        console_for(sys.stdout).print(table)


@models.command("load")
def load_model(
    name: ModelName,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = LOAD_TIMEOUT_SECONDS,
) -> None:
    """Load a model, or what is new of it, from the server's models folder."""
    with connect(server, timeout) as client:
        try:
            client.load_model(name)
            versions = [one.version for one in client.list_models() if one.name == name]
        except RetinueError as error:
            fail(error.message)
    console_for(sys.stdout).print(
        f"{plain(name)} is served in version{'s' if len(versions) > 1 else ''} "
        f"{', '.join(map(str, sorted(versions)))}."
    )


@models.command("unload")
def unload_model(
    name: ModelName,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Take a model away, when what runs on it is done."""
    with connect(server, timeout) as client:
        try:
            client.unload_model(name)
        except RetinueError as error:
            fail(error.message)
    console_for(sys.stdout).print(f"{plain(name)} is no longer served.")


models.command("diff")(diff)
models.command("promote", no_args_is_help=True)(promote)
