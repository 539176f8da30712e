"""The README is always true: its commands run, print what it shows, and its Python runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server_process import ROOT, ServerProcess
from tests.system_packages import require

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Each needs a machine of its own; CI runs the first two, and the container test builds and starts the third.
RUN_ELSEWHERE = ("make serve", "make test", "docker compose up")


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def commands() -> list[tuple[str, str]]:
    """(command, what the README says it prints) of every console block."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


@pytest.fixture(scope="module")
def environment(server: ServerProcess) -> dict[str, str]:
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": paths, "RETINUE_SERVER": server.grpc_address, "COLUMNS": "120"}


def test_there_is_something_to_run() -> None:
    assert len(commands()) >= 3
    assert blocks("python")


@pytest.mark.parametrize(("command", "shown"), commands())
def test_a_command_prints_what_the_readme_shows(
    command: str, shown: str, environment: dict[str, str], server: ServerProcess
) -> None:
    words = shlex.split(command.replace("localhost:8080", server.http_url.removeprefix("http://")))
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[0] == "curl":
        require("curl")
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert readable(done.stdout) == readable(shown)


def readable(output: str) -> list[str]:
    """Lines without what differs from machine to machine: times, rates, addresses, the width of tables."""
    without_numbers = re.sub(r"\d+([.,:]\d+)*", "0", output)
    return [re.sub(r"[\s━─]+", " ", line).strip() for line in without_numbers.strip().splitlines()]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code: str, environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code.replace("localhost:8001", environment["RETINUE_SERVER"]))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.strip().splitlines()])
def test_every_other_command_is_known_to_be_run_elsewhere_or_exists(command: str) -> None:
    if command.startswith(RUN_ELSEWHERE):
        return
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
    else:
        # The program and its subcommand exist and know every flag that is shown.
        name = Path(program).name
        subcommand = [word for word in arguments[:1] if not word.startswith("-")]
        executable = str(Path(sys.executable).parent / name)
        helped = subprocess.run(
            [executable, *subcommand, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )
        for flag in (word.split("=")[0] for word in arguments if word.startswith("--")):
            assert flag in helped.stdout


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
