"""`retinue models promote`: has a label name another version, and says what comes of it."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from retinue_client import Client, ModelControlError, ModelNotFoundError, RetinueError
from retinue_client._address import resolve_address
from retinue_client._promotion import LABEL, LABEL_RULE, SERVING_FILE, Promotion, PromotionError, ServingFile
from retinue_client.cli._console import console_for, plain
from retinue_client.cli._exit import EXIT_SOME_FAILED, complain, fail
from retinue_client.cli._options import LOAD_TIMEOUT_SECONDS, ModelName, Timeout, connect

# What a server that watches takes, twice over, and the loading of a small model.
_MOST_WAIT_SECONDS = 5.0
_BETWEEN_SECONDS = 0.1


def promote(
    name: ModelName,
    version: Annotated[
        int,
        typer.Argument(
            metavar="VERSION", min=1, max=999_999_999, help="The version that is to have the label."
        ),
    ],
    *,
    folder: Annotated[
        str,
        typer.Option("--models", metavar="DIR", help="The models folder of the server.", show_default=False),
    ],
    label: Annotated[str, typer.Option("--label", help="Which label.")] = "stable",
    split: Annotated[
        bool,
        typer.Option("--split", help="Also have all requests that name no version go to the label."),
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="Also have this server take it up, by a call or by itself where it watches the folder; where it "
            "cannot, nothing is changed.",
        ),
    ] = None,
    timeout: Timeout = LOAD_TIMEOUT_SECONDS,
) -> None:
    """Have a label name another version, in the model's serving.json, which is made where there is none.

    A server that watches its models folder takes it up within two seconds.
    """
    if LABEL.fullmatch(label) is None:
        fail(f"--label: a label {LABEL_RULE}.")
    if "://" in folder:
        fail(
            f"--models: only a folder can be changed here; put the changed {SERVING_FILE} to "
            f"{folder.rstrip('/')}/{name}/{SERVING_FILE} by other means."
        )
    try:
        address = None if server is None else resolve_address(server)
    except ValueError as exc:
        fail(f"--server: {exc}")
    move = _Move(name, version, label)
    try:
        file = ServingFile(Path(folder), name)
        promotion = file.promote(version, label, split=split)
        taken_up, whether = (
            (True, _who_takes_up(file, name)) if address is None else _take_up(move, file, address, timeout)
        )
    except (PromotionError, RetinueError) as error:
        fail(error.message)
    console = console_for(sys.stdout)
    for sentence in _sentences(move, promotion):
        console.print(sentence, soft_wrap=True)
    if not taken_up:
        complain(whether)
        raise typer.Exit(EXIT_SOME_FAILED)
    console.print(whether, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Move:
    """Which label of which model is to name which version."""

    name: str
    version: int
    label: str

    def is_seen(self, client: Client) -> bool:
        """Whether a server has it so."""
        try:
            return self.label in client.get_model(self.name, self.version).version_labels
        except ModelNotFoundError:
            return False


def _sentences(move: _Move, promotion: Promotion) -> Iterator[str]:
    """What has changed, and whether anybody without a version notices."""
    if promotion.before is None:
        yield f"{move.label} is new: {move.name} had no such label, and now it names version {move.version}."
    elif promotion.before == move.version:
        yield f"{move.label} of {move.name} is version {move.version}, as it was."
    else:
        yield f"{move.label} of {move.name} is version {move.version}; it was {promotion.before}."
    if promotion.others is not None:
        yield (
            f"Requests that name no version go {promotion.others}: have them name {move.label}, or give it the split "
            "with --split."
        )


def _who_takes_up(file: ServingFile, name: str) -> str:
    return (
        f"{plain(str(file.path))} is written: a server that watches the folder takes it up by itself, one with "
        f"--model-control explicit by `retinue models load {name}`, any other when it starts."
    )


def _take_up(move: _Move, file: ServingFile, address: str, timeout: float) -> tuple[bool, str]:
    """Whether a server has the label where it should be, in words; where it cannot, the file is what it was.

    Raises:
        PromotionError: The file cannot be put back.
        RetinueError: The server no longer answers.
        typer.Exit: The server cannot load the model, or has it from elsewhere.
    """
    with connect(address, timeout) as client:
        try:
            client.load_model(move.name)
        except RetinueError as error:
            if _watches(error):
                return _await(move, client)
            # A load that leaves out some version is refused, too, and may have moved the label.
            with suppress(RetinueError):
                if move.is_seen(client):
                    return True, f"{address} has taken it up, but: {error.message}"
            file.put_back()
            # What was begun is finished, also where nobody waited for it: the server must not keep what the file had.
            with suppress(RetinueError):
                client.load_model(move.name)
            fail(f"{error.message} The label stays as it was.")
        if not move.is_seen(client):
            file.put_back()
            fail(
                f"{address} has loaded {move.name}, and {move.label} is not version {move.version} there: it serves "
                f"another folder than that of {file.path}. The label stays as it was."
            )
        return True, f"{address} has taken it up."


def _watches(error: RetinueError) -> bool:
    """Whether a server refuses to load because it looks for itself."""
    return error.reason == ModelControlError.reason and "--model-control watch" in error.message


def _await(move: _Move, client: Client) -> tuple[bool, str]:
    """Asks a server that watches until it has the label where it should be, or has had enough time."""
    end = time.monotonic() + _MOST_WAIT_SECONDS
    while not move.is_seen(client):
        if time.monotonic() >= end:
            return False, (
                f"{client.address} watches its models folder and does not have it yet: it is still loading version "
                f"{move.version}, serves another folder, or cannot, which its log says as serving_policy_refused."
            )
        time.sleep(_BETWEEN_SECONDS)
    return True, f"{client.address} watches its models folder and has taken it up."
