"""What a scoring job shows, with and without a terminal."""

import asyncio
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from retinue_client._classification import Classification
from retinue_client._score.account import Account
from retinue_client._timing import Timing
from retinue_client.cli._progress import ScoreProgress, Show
from retinue_client.cli._progress_bar import Moment, ProgressBar

GOOD = {"path": "a.jpg", "version": 1, "classes": []}
BAD = {"path": "b.jpg", "error_reason": "IMAGE_EMPTY", "error_message": "No bytes."}
ANSWER = Classification((), "m", 1, Timing(1000, 0, 4000, 0, 6000, 1))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Shown:
    """A job's account and what is shown of it."""

    def __init__(self, show=Show.SCREEN, account=None):
        self.clock = Clock()
        self.account = account or Account()
        self.output = io.StringIO()
        self.progress = ScoreProgress(self.account, show, self.output, self.clock)

    def pass_time(self, seconds, rows=()):
        self.clock.now += seconds
        self.account.add_rows(rows)
        self.progress.add(rows)
        self.progress.tick()

    def lines(self):
        return self.output.getvalue().splitlines()

    def objects(self):
        return [json.loads(line) for line in self.lines()]


def account_of_an_earlier_run(rows):
    earlier = Account()
    earlier.add_rows(rows)
    account = Account()
    account.resume(earlier.close_part())
    return account


def test_without_a_terminal_a_line_every_half_minute_says_that_the_job_lives():
    shown = Shown()
    shown.pass_time(20, [GOOD] * 60)
    assert shown.lines() == []
    shown.pass_time(10, [GOOD] * 30)
    shown.pass_time(1, [GOOD] * 10)
    shown.progress.set_total(2000)
    shown.account.add_answer(0.0, 0.02, [ANSWER])
    shown.pass_time(39, [*[GOOD] * 999, BAD])
    assert shown.lines() == [
        "90 images, 3.0 images/s, 0 failed",
        "b.jpg: IMAGE_EMPTY: No bytes.",
        "1,100 of 2,000 images, 25.2 images/s, 0:00:35 left, 1 failed, p50 20 ms, p99 20 ms",
    ]


def test_an_earlier_runs_rows_count_for_the_whole_but_not_for_the_rate():
    shown = Shown(account=account_of_an_earlier_run([GOOD] * 900 + [BAD] * 100))
    shown.progress.set_total(1200)
    shown.pass_time(5, [GOOD] * 50)
    moment = shown.progress.moment()
    assert (moment.images, moment.earlier_images, moment.failed) == (1050, 1000, 100)
    assert moment.images_per_second == pytest.approx(10)
    assert moment.seconds_left == pytest.approx(15)
    shown.pass_time(25, [GOOD] * 25)
    assert shown.lines()[0].startswith("1,075 of 1,200 images, 2.5 images/s, ")


def test_the_rate_is_of_the_last_ten_seconds():
    shown = Shown()
    for _ in range(20):
        shown.pass_time(1, [GOOD] * 100)
    for _ in range(10):
        shown.pass_time(1, [GOOD] * 3)
    assert shown.progress.moment().images_per_second == pytest.approx(3)


def test_rate_and_time_left_are_unknown_while_nothing_is_done():
    shown = Shown()
    shown.progress.set_total(10)
    shown.pass_time(3)
    moment = shown.progress.moment()
    assert (moment.images_per_second, moment.seconds_left, moment.p50_ms) == (None, None, None)


def test_as_json_there_is_an_object_a_second_one_for_a_failure_and_one_at_the_end():
    shown = Shown(Show.JSON)
    shown.account.add_answer(0.0, 0.02, [ANSWER])
    shown.pass_time(0.5, [GOOD])
    shown.pass_time(0.5, [BAD])
    shown.pass_time(0.9)
    shown.pass_time(0.1)
    shown.progress.end({"images": 2})
    failure, first, second, last = shown.objects()
    assert failure == {
        "event": "failure",
        "path": "b.jpg",
        "reason": "IMAGE_EMPTY",
        "message": "No bytes.",
    }
    assert first == {
        "event": "progress",
        "images": 2,
        "earlier_images": 0,
        "failed": 1,
        "total": None,
        "seconds": 1.0,
        "images_per_second": 2.0,
        "seconds_left": None,
        "p50_ms": pytest.approx(20, rel=0.01),
        "p99_ms": pytest.approx(20, rel=0.01),
    }
    assert second["seconds"] == 2.0
    assert last == {"event": "summary", "images": 2}


@pytest.mark.parametrize(("show", "most"), [(Show.JSON, 100), (Show.SCREEN, 101)])
def test_of_many_failures_the_first_hundred_are_shown(show, most):
    shown = Shown(show)
    shown.pass_time(0, [BAD] * 1000)
    assert len(shown.lines()) == most


def test_hostile_messages_do_not_steer_a_terminal():
    shown = Shown()
    shown.pass_time(0, [{**BAD, "error_message": "\x1b[2Jgone\nnext"}])
    assert shown.lines() == ["b.jpg: IMAGE_EMPTY: \\x1b[2Jgone\\nnext"]


def test_nothing_is_nothing():
    shown = Shown(Show.NOTHING)
    for _ in range(100):
        shown.pass_time(1, [BAD])
    shown.progress.end({"images": 100})
    assert shown.lines() == []


async def test_a_job_that_stands_still_is_still_spoken_of():
    shown = Shown(Show.JSON)
    spoken = asyncio.Event()
    shown.output.flush = spoken.set
    async with shown.progress:
        shown.clock.now += 1
        await asyncio.wait_for(spoken.wait(), timeout=60)
    assert shown.objects()[0]["images"] == 0


async def test_a_reader_that_is_gone_is_not_passed_over_in_silence():
    shown = Shown(Show.JSON)
    gone = asyncio.Event()

    def write(_text):
        gone.set()
        raise BrokenPipeError

    async def work():
        async with shown.progress:
            shown.clock.now += 1
            await asyncio.wait_for(gone.wait(), timeout=60)

    shown.output.write = write
    with pytest.raises(BrokenPipeError):
        await work()


def test_a_terminal_shows_the_count_the_rate_the_time_left_and_the_failures(server, folder, tmp_path):
    (folder / "0" / "!.jpg").write_bytes(b"bad")
    program = "from retinue_client.cli import main; main()"
    command = [sys.executable, "-c", program, "score", str(folder), "--task", "classify"]
    command += ["--out", str(tmp_path / "results.parquet")]
    environment = os.environ | {"RETINUE_SERVER": server.address, "TERM": "xterm", "COLUMNS": "160"}
    screen, terminal = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = _everything_from(screen)
    assert process.returncode == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "0/!.jpg: IMAGE_UNDECODABLE: These bytes are no image." in text
    assert "101/101" in text
    assert re.search(
        r"[\d.]+ images/s +1 failed +p50 \d+ p99 \d+ ms +left \d:\d\d:\d\d +of \d:\d\d:\d\d", text
    )


@pytest.mark.parametrize("width", [80, 100, 129, 130, 200])
def test_no_number_of_a_large_job_is_cut_whatever_the_terminal(width):
    output = io.StringIO()
    console = Console(file=output, width=width)
    moment = Moment(1_234_567, 0, 12_345, 10_000_000, 3600.0, 1312.4, 28_000.0, 896.0, 11_130.0)
    console.print(ProgressBar(console, lambda: moment)._progress.get_renderable())
    (line,) = output.getvalue().splitlines()
    for text in ("1,234,567/10,000,000", "1,312.4 images/s", "12,345 failed", "left 7:46:40"):
        assert text in line
    assert ("p99 11130 ms" in line) == (width >= 130)


def _everything_from(screen):
    """What is written to a pseudo-terminal until nobody has it open any more."""
    chunks = []
    try:
        while chunk := os.read(screen, 65536):
            chunks.append(chunk)
    except OSError:  # EIO is how Linux says that the other end is closed
        pass
    os.close(screen)
    return b"".join(chunks).decode()
