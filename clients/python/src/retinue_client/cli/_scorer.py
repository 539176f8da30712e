"""Who answers the images of `retinue score`: servers, the engine in this process, or workers of a Ray cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from retinue_client import RetinueError
from retinue_client._address import ADDRESS_VARIABLE
from retinue_client._score.account import Account
from retinue_client._score.asker import ServerAsker
from retinue_client._score.local import LocalAsker, find_engine
from retinue_client._score.ray_scorer import Cluster, RayScorer
from retinue_client._score.ray_worker import EnginePlan
from retinue_client._score.remote import RemoteScorer
from retinue_client._score.scorer import ScoreOptions, Scorer
from retinue_client._score.sources.opening import STANDARD_INPUT
from retinue_client._urls import is_url
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
        help="With --local and --ray, the folder of bundles, or its address; other settings of `retinue-server` are "
        "taken from their variables, such as RETINUE_PROVIDER.",
    ),
]

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run the model on a Ray cluster: `auto` is the one that this machine belongs to, `local` one that is made "
        "here. All its machines need to have the source, --out and --models at the same place.",
    ),
]
RayCores = Annotated[
    int, typer.Option("--ray-cpus", metavar="N", min=1, help="Processor cores of each of Ray's workers.")
]
RayGpus = Annotated[
    float, typer.Option("--ray-gpus", metavar="N", min=0, help="GPUs of each; 0.5 lets two share one.")
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray-workers", metavar="N", min=1, help="The most of them at once; as many as have room."),
]


@dataclass(frozen=True, slots=True)
class Where:
    """Where the command line says that the model runs.

    Attributes:
        servers: What --server names.
        local: Whether this process answers itself.
        models: What --models names.
        cluster: A Ray cluster, or None.
    """

    servers: list[str] | None
    local: bool = False
    models: str | None = None
    cluster: Cluster | None = None


def cluster_of(address: str | None, cores: int, gpus: float, max_workers: int | None) -> Cluster | None:
    """The cluster that --ray names, with what the options say of its workers."""
    return None if address is None else Cluster(address, cores, gpus, max_workers)


def scorer_of(
    options: ScoreOptions, account: Account, timeout_seconds: float, where: Where
) -> Scorer | RayScorer:
    """What answers, as the command line says; it is asked nothing yet.

    Args:
        options: The question.
        account: Takes down the answers.
        timeout_seconds: How long a server may take for a request.
        where: Where the model runs.

    Raises:
        typer.Exit: The options do not go together, or what is to run the model is not installed.
    """
    if where.local and where.cluster is not None:
        fail("--local and --ray exclude each other.")
    # The variable RETINUE_SERVER may be there for other commands.
    if where.local or where.cluster is not None:
        try:
            return _own_engine(options, account, where)
        except RetinueError as error:
            fail(error.message)
    if where.models is not None:
        fail("--models is for --local and --ray; a server has its own.")
    return RemoteScorer(
        [
            ServerAsker(connect_async(address, timeout_seconds), options.task, options.options)
            for address in servers_of(where.servers)
        ],
        options,
        account,
    )


def _own_engine(options: ScoreOptions, account: Account, where: Where) -> Scorer | RayScorer:
    """Runs the model without a server.

    Raises:
        RetinueError: What that takes is not installed.
    """
    if where.cluster is not None:
        # Machines of a cluster have folders in common, and not where somebody stands in them.
        models = [] if where.models is None else ["--models", absolute(where.models)]
        return RayScorer(where.cluster, EnginePlan(options, tuple(models), where.cluster.cores))
    models = [] if where.models is None else ["--models", where.models]
    engine = find_engine(models, options.options["model"])
    return RemoteScorer([LocalAsker(engine, options.task, options.options)], options, account)


def absolute(place: str) -> str:
    """A path from the root on; an address, and standard input, as they are."""
    return place if is_url(place) or place == STANDARD_INPUT else str(Path(place).absolute())


def servers_of(given: list[str] | None) -> list[str]:
    """The addresses that --server names, each of them once; the usual one where it names none."""
    named = [one.strip() for text in given or () for one in text.split(",")]
    return list(dict.fromkeys(one for one in named if one)) or [DEFAULT_SERVER]
