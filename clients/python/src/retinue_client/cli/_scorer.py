"""Who answers the images of `retinue score`: one server, several, or the engine in this process."""

from typing import Annotated

import typer

from retinue_client import RetinueError
from retinue_client._address import ADDRESS_VARIABLE
from retinue_client._score.account import Account
from retinue_client._score.asker import Asker, ServerAsker
from retinue_client._score.local import LocalAsker, find_engine
from retinue_client._score.remote import RemoteScorer
from retinue_client._score.scorer import ScoreOptions, Scorer
from retinue_client.cli._exit import fail
from retinue_client.cli._options import DEFAULT_SERVER, connect_async

Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        envvar=ADDRESS_VARIABLE,
        help="Where the server is; several, separated by commas or given one by one, share the work.",
    ),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Run the model in this process, without a server; needs retinue-server[cpu]."
    ),
]
ModelsFolder = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="With --local, the folder of bundles, or its address; other settings of `retinue-server` are taken from "
        "their variables, such as RETINUE_PROVIDER.",
    ),
]


def scorer_of(
    options: ScoreOptions,
    account: Account,
    timeout_seconds: float,
    *,
    servers: list[str] | None,
    local: bool,
    models: str | None,
) -> Scorer:
    """What answers, as the command line says; it is asked nothing yet.

    Args:
        options: The question.
        account: Takes down the answers.
        timeout_seconds: How long a server may take for a request.
        servers: What --server names.
        local: Whether this process answers itself.
        models: What --models names.

    Raises:
        typer.Exit: The options do not go together, or there is no engine here.
    """
    askers: list[Asker]
    if local:
        # The variable RETINUE_SERVER may be there for other commands.
        try:
            engine = find_engine([] if models is None else ["--models", models], options.options["model"])
        except RetinueError as error:
            fail(error.message)
        askers = [LocalAsker(engine, options.task, options.options)]
    elif models is not None:
        fail("--models is for --local; a server has its own.")
    else:
        askers = [
            ServerAsker(connect_async(address, timeout_seconds), options.task, options.options)
            for address in servers_of(servers)
        ]
    return RemoteScorer(askers, options, account)


def servers_of(given: list[str] | None) -> list[str]:
    """The addresses that --server names, each of them once; the usual one where it names none."""
    named = [one.strip() for text in given or () for one in text.split(",")]
    return list(dict.fromkeys(one for one in named if one)) or [DEFAULT_SERVER]
