"""The command `retinue models`: what the server has, and which versions of it answer."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from retinue_client import RetinueError
from retinue_client._address import resolve_address
from retinue_client._promotion import PromotionError, ServingFile, load
from retinue_client.cli._console import console_for
from retinue_client.cli._exit import fail
from retinue_client.cli._options import DEFAULT_SERVER, DEFAULT_TIMEOUT, Json, Server, Timeout, connect
from retinue_client.cli._show import models_table, print_json

# As servers have it.
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

models_app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")


@models_app.callback()
def models(
    context: typer.Context,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
) -> None:
    """List the models that the server has, or change which of their versions answer."""
    if context.invoked_subcommand is not None:
        return
    with connect(server, timeout) as client:
        try:
            found = client.list_models()
        except RetinueError as error:
            fail(error.message)
    if as_json:
        for model in found:
            print_json(model.to_dict())
    elif found:
        console_for(sys.stdout).print(models_table(found))
    else:
        console_for(sys.stderr).print(f"The server at {client.address} has no models.")


@models_app.command(no_args_is_help=True)
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
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
    timeout: Timeout = DEFAULT_TIMEOUT,
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
        load(address, name, timeout)
    except RetinueError as error:
        file.put_back()
        fail(f"{error.message} The label stays as it was.")
