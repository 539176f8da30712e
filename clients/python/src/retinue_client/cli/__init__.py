"""The command `retinue`. It needs the extra `retinue-client[cli]`; nothing in the library imports it."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO


def main() -> None:
    """Runs the command line; without its extra it says how to install it."""
    try:
        from retinue_client.cli._app import app  # noqa: PLC0415 (what it needs may not be installed)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in {"typer", "rich", "pyarrow", "click"}:
            raise
        print(
            f"retinue: the module {missing!r} is missing. Install the command line with: "
            "pip install 'retinue-client[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from exc
    _prepare_streams()
    try:
        app()
    except OSError as exc:
        # Of the files that they name the commands say themselves what is wrong.
        with suppress(OSError):
            print(f"retinue: the output cannot be written: {exc.strerror or exc}.", file=sys.stderr)
        _forget_what_is_unwritten()
        raise SystemExit(2) from exc


def _prepare_streams() -> None:
    """Makes both streams ones that everything can be printed to, whatever the shell closed and the locale has."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _forget_what_is_unwritten() -> None:
    """Keeps the interpreter from another try, and another complaint, at its end.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    nowhere = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere.fileno(), stream.fileno())
    nowhere.close()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
