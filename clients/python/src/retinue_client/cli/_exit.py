"""How the commands end."""

import sys
from typing import NoReturn

import typer

from retinue_client.cli._console import console_for, plain

EXIT_ALL_ANSWERED = 0
EXIT_SOME_FAILED = 1
EXIT_NOT_ANSWERED = 2
EXIT_INTERRUPTED = 130


def complain(message: str) -> None:
    """Says in one sentence what went wrong."""
    console_for(sys.stderr).print(f"retinue: {plain(message)}", soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Says in one sentence why a command cannot go on, and ends it.

    Raises:
        typer.Exit: With 2.
    """
    complain(message)
    raise typer.Exit(EXIT_NOT_ANSWERED)
