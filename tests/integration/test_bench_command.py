"""The installed command `retinue bench` against real servers: healthy, busy, dying."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import pictures
from tests.busy import SLOW_MODEL
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ROOT, ServerProcess, running_server

PROGRAM = str(Path(sys.executable).parent / "retinue")
MODEL = "colour-classifier"
SHORT = ("--seconds", "1", "--warm-up", "0.2")
GUIDE = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
# One image takes a tenth of a second.
SLOW_LEVEL = 25
TIMEOUT_SECONDS = 120


def environment(server: ServerProcess) -> dict[str, str]:
    return {**os.environ, "RETINUE_SERVER": server.grpc_address, "NO_COLOR": "1"}


def bench(server: ServerProcess, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAM, "bench", *map(str, arguments)],
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def begin(server: ServerProcess, *arguments: object) -> "subprocess.Popen[str]":
    """Starts a measurement in a group of processes of its own, as a shell does."""
    return subprocess.Popen(
        [PROGRAM, "bench", *map(str, arguments)],
        env=environment(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows_in(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    for row in rows:
        for counts in (row["requests"], row["images"]):
            fates = ("answered", "refused", "failed", "unfinished")
            assert counts["sent"] == sum(counts[fate] for fate in fates)
    return rows


def requests_answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total(
        "retinue_requests_total", method="Classify", model=MODEL, code="OK"
    )


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_each_task_is_measured_in_both_loops(colour_server: ServerProcess, task: str) -> None:
    done = bench(
        colour_server,
        "--task",
        task,
        "-c",
        "2",
        "-r",
        "30",
        "-n",
        "2",
        "--size",
        "64x48",
        *SHORT,
        "--json",
        "-",
    )
    assert done.returncode == 0, done.stderr
    closed, opened = rows_in(done.stdout)
    for row in (closed, opened):
        assert row["errors"] == {}
        assert row["images"]["answered"] == 2 * row["requests"]["answered"] > 0
        assert 0 < row["server_ms"]["total"] <= row["latency_ms"]["mean"] + 1
        assert row["mean_batch_size"] >= 1
    assert "2 at once" in done.stderr
    assert "30/s" in done.stderr


def test_the_servers_own_count_of_requests_is_the_clients(colour_server: ServerProcess) -> None:
    before = requests_answered(colour_server)
    done = bench(
        colour_server,
        "-t",
        "classify",
        "-c",
        "3",
        "--processes",
        "2",
        "--seconds",
        "1",
        "--warm-up",
        "0",
        "--json",
        "-",
    )
    (row,) = rows_in(done.stdout)
    # And the one question before all others.
    assert requests_answered(colour_server) - before == row["requests"]["sent"] + 1


def test_a_rate_over_the_servers_capacity_shows_as_refusals(
    small_server: ServerProcess, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.png"
    slow.write_bytes(pictures.png((SLOW_LEVEL,) * 3, 8, 8))
    out = tmp_path / "out.json"
    done = bench(
        small_server,
        *(slow, "--task", "classify", "--model", SLOW_MODEL, "--rate", "150", "--json", out),
        *("--seconds", "2", "--warm-up", "0.5"),
    )
    assert done.returncode == 1
    assert "QUEUE_FULL" in done.stdout
    (row,) = rows_in(out.read_text())
    assert row["requests"]["refused"] == row["errors"]["QUEUE_FULL"]["images"]
    assert row["requests"]["refused"] > row["requests"]["answered"] > 0
    assert row["requests"]["sent"] + row["requests"]["unsent"] == pytest.approx(300, abs=90)


def test_a_model_that_is_not_there_is_named_with_those_that_are(colour_server: ServerProcess) -> None:
    done = bench(colour_server, "--task", "classify", "--model", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert MODEL in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_dies_ends_the_measurement_with_what_was_measured(
    colour_models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    with running_server(colour_models) as server:
        measuring = begin(
            server, "-t", "classify", "-c", "4,8", "--seconds", "60", "--warm-up", "0", "--json", out
        )
        wait_until(lambda: requests_answered(server) > 100, "requests to be answered")
        server.process.kill()
        stdout, stderr = measuring.communicate(timeout=TIMEOUT_SECONDS)
    assert measuring.returncode == 1
    assert "Traceback" not in stderr
    assert "the server went away" in stderr
    (row,) = rows_in(out.read_text())
    assert row["lost"] is not None
    assert row["requests"]["answered"] > 50
    assert 0 < row["seconds"] < 60
    assert "SERVER_UNREACHABLE" in row["errors"]
    assert "4 at once" in stdout


def test_ctrl_c_shows_and_writes_what_there_is_so_far(colour_server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    before = requests_answered(colour_server)
    measuring = begin(
        colour_server, "-t", "classify", "-c", "2,4", "--seconds", "60", "--warm-up", "0", "--json", out
    )
    wait_until(lambda: requests_answered(colour_server) > before + 200, "requests to be answered")
    os.killpg(measuring.pid, signal.SIGINT)
    stdout, stderr = measuring.communicate(timeout=TIMEOUT_SECONDS)
    assert measuring.returncode == 130
    assert stderr == "retinue: interrupted. Loads not begun: 1 of 2.\n"
    (row,) = rows_in(out.read_text())
    assert row["interrupted"] is True
    assert row["requests"]["answered"] > 50
    assert "2 at once" in stdout


def test_a_terminal_shows_a_chart_while_it_runs_and_the_tables_at_the_end(
    colour_server: ServerProcess,
) -> None:
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "bench", "-t", "classify", "-c", "1,2", "--seconds", "2", "--warm-up", "0.5"],
        env={**environment(colour_server), "TERM": "xterm", "COLUMNS": "60", "LINES": "40"},
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        chunks = []
        try:
            while chunk := os.read(screen, 65536):
                chunks.append(chunk)
        except OSError:  # EIO is how Linux says that the other end is closed
            pass
        os.close(screen)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())
    assert "(1 of 2)  warming up" in text
    assert "(2 of 2)  measuring" in text
    assert re.search(r"│[█▁▂▃▄▅▆▇]+", text)
    assert re.search(r"[\d.]+ images/s  p50 [\d.]+ ms  p99 [\d.]+ ms  1 in flight", text)
    final = text[text.rindex("load ") :]
    assert re.search(r"1 at once +[\d.,]+ +[\d.,]+", final)
    assert "inference" in final


@pytest.mark.parametrize("line", re.findall(r"^```sh\n(.*)\n```$", GUIDE, re.MULTILINE))
def test_the_lines_of_the_guide_run(server: ServerProcess, tmp_path: Path, line: str) -> None:
    arguments = shlex.split(line.replace("bench.json", str(tmp_path / "bench.json")))
    assert arguments[:2] == [".venv/bin/retinue", "bench"]
    done = subprocess.run(
        [PROGRAM, *arguments[1:], *SHORT],
        cwd=ROOT,
        env=environment(server),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert len(rows_in((tmp_path / "bench.json").read_text())) == 3


def test_every_option_that_the_guide_names_is_one(colour_server: ServerProcess) -> None:
    shown = bench(colour_server, "--help").stdout
    options = set(re.findall(r"--[a-z-]+", GUIDE))
    assert options
    assert {option for option in options if option not in shown} == set()
