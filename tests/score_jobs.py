"""`retinue score` run in processes that are forked from a warm one: each begins in milliseconds, and can be killed.

Run as a program it is that warm process: it reads a JSON list of arguments a line, forks a process that runs the
command with them, and writes that process's number, and then how it ended.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class WarmProcess:
    """A process in which everything is imported, and which has no threads and no connections."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def start(self, arguments: Sequence[object], log: Path) -> int:
        """Begins `retinue ARGUMENTS`, and returns its process."""
        self._write([str(log), *map(str, arguments)])
        return int(self._read())

    def kill(self, process: int) -> None:
        """Kills what was begun, which cannot do anything about it."""
        os.kill(process, signal.SIGKILL)

    def end(self) -> int:
        """Waits until what was begun has ended, and returns its exit code, or less than 0 where it was killed."""
        self._write([])
        return int(self._read())

    def close(self) -> None:
        """Ends the warm process."""
        self._process.kill()
        self._process.communicate()

    def _write(self, line: list[str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _serve() -> None:
    from retinue_client.cli._app import app

    child = 0
    for line in sys.stdin:
        arguments = json.loads(line)
        if arguments:
            child = os.fork()
            if child == 0:
                _become(app, arguments)
            print(child, flush=True)
        else:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def _become(app: "object", arguments: list[str]) -> None:
    log = os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        app(arguments[1:])  # type: ignore[operator]
    except SystemExit as exc:
        sys.stdout.flush()
        os._exit(int(exc.code or 0))
    os._exit(70)


if __name__ == "__main__":
    _serve()
