"""`make serve` as a newcomer runs it: in a fresh clone. What is not committed is not in it."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.server_process import ROOT, STOP_TIMEOUT_SECONDS
from tests.system_packages import unavailable

pytestmark = pytest.mark.slow

INSTALL_TIMEOUT_SECONDS = 900
COMMAND_TIMEOUT_SECONDS = 120
# What make hands down to the programs that it runs would be handed down once more.
MAKES_OWN = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS")
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in MAKES_OWN and not name.startswith("RETINUE_")
}


@dataclass(frozen=True)
class Fresh:
    """A clone in which `make serve` runs.

    Attributes:
        folder: The clone.
        make: The process.
        commands: The lines that it says to try next.
    """

    folder: Path
    make: "subprocess.Popen[str]"
    commands: list[str]

    def python(self, code: str) -> str:
        """What the code prints in the clone's virtual environment."""
        return _run([self.folder / ".venv" / "bin" / "python", "-c", code], self.folder)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    if not (ROOT / ".git").exists():
        unavailable("this is no clone, so nothing can be cloned from it")
    folder = tmp_path_factory.mktemp("fresh") / "retinue"
    _run(["git", "clone", "--quiet", ROOT, folder], ROOT)
    with _make_serve(folder) as make:
        yield Fresh(folder, make, _commands(make))
    shutil.rmtree(folder)  # pytest keeps the folders of several runs, and this one is large


@contextmanager
def _make_serve(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The process, with its standard output; ended afterwards, and after a time in which it must have been ready."""
    command = ["make", "serve", f"PYTHON={sys.executable}", "ARGS=--grpc-port 0 --http-port 0"]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as make:

        def end() -> None:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)

        limit = threading.Timer(INSTALL_TIMEOUT_SECONDS, end)
        limit.start()
        try:
            yield make
        finally:
            limit.cancel()
            end()


def _commands(make: "subprocess.Popen[str]") -> list[str]:
    """The three commands of the banner, once it is printed."""
    assert make.stdout is not None
    printed = []
    for line in make.stdout:
        printed.append(line)
        commands = re.findall(r"^ +(\S+/retinue .*)$", "".join(printed), re.MULTILINE)
        if len(commands) == 3:
            return commands
    raise AssertionError(f"make serve ended with {make.wait()}:\n{''.join(printed)}")


def _run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_to_try_next_are_answered(fresh: Fresh) -> None:
    classified, detected, segmented = (_run(shlex.split(line), fresh.folder) for line in fresh.commands)

    assert "cat" in classified
    assert "score" in detected
    assert "background" in segmented
    assert (fresh.folder / "detections.png").exists()
    assert (fresh.folder / "segments.png").exists()


def test_no_torch_is_installed_to_serve(fresh: Fresh) -> None:
    asked = "import importlib.util as u; print([m for m in ('torch', 'torchvision') if u.find_spec(m)])"

    assert fresh.python(asked).strip() == "[]"


def test_the_packages_are_built_by_the_pinned_hatchling(fresh: Fresh) -> None:
    pinned = re.search(r"^hatchling==(.*)$", (fresh.folder / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None

    asked = "import importlib.metadata as m; print(m.distribution('retinue-server').read_text('WHEEL'))"

    assert f"Generator: hatchling {pinned[1]}\n" in fresh.python(asked)


def test_sigterm_ends_the_server_and_make_in_order(fresh: Fresh) -> None:
    (server,) = (
        process
        for process in psutil.Process(fresh.make.pid).children(recursive=True)
        if any(word.endswith("retinue-server") for word in process.cmdline())
    )

    server.send_signal(signal.SIGTERM)

    assert fresh.make.wait(STOP_TIMEOUT_SECONDS) == 0
