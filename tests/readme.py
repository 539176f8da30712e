"""The README's session: its commands, what it shows for each, and what each prints now.

`python -m tests.readme` (make readme) runs them against the bundled models and writes what they print into the README.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.server_process import ROOT, ServerProcess, running_server

README = ROOT / "README.md"
# A command and what it prints, up to the next command or the end of the block.
_ENTRY = re.compile(r"^\$ (.+)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)
_TIMEOUT_SECONDS = 900


def session() -> list[tuple[str, str]]:
    """(command, what the README shows for it) of every line after a prompt."""
    return _ENTRY.findall(README.read_text(encoding="utf-8"))


def run(command: str, server: ServerProcess | None = None, folder: Path = ROOT) -> str:
    """Runs a command of the README, with the programs beside this Python, and returns what it prints.

    Args:
        command: As the README writes it.
        server: What answers in place of the server that a person started with `make serve`.
        folder: Where it runs.

    Raises:
        AssertionError: It exited with another code than 0.
    """
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths}
    if server is not None:
        command = command.replace("http://localhost:8080", server.http_url)
        environment["RETINUE_SERVER"] = server.grpc_address
    done = subprocess.run(
        shlex.split(command.removeprefix(".venv/bin/")),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def main() -> None:
    """Writes what the session prints now into the README, pictures included."""
    text = README.read_text(encoding="utf-8")
    with running_server(ROOT / "models") as server:
        for command, _ in session():
            run(command, server)  # so that the times shown are not those of a first request
        text = _ENTRY.sub(lambda entry: f"$ {entry[1]}\n{run(entry[1], server)}", text)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
