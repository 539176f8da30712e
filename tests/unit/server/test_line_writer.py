"""Lines are written in their order by a thread that alone waits for their reader."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from retinue_server.line_writer import LineWriter

_PIPE_BYTES = 4096
_LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds little."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def started(most_bytes: int = 10 * _PIPE_BYTES) -> tuple[LineWriter, list[int]]:
    left_out: list[int] = []
    lines = LineWriter(most_bytes, left_out.append)
    lines.start()
    return lines, left_out


def test_lines_come_out_whole_and_in_their_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines, left_out = started()
    sent = b"".join(b"%d\n" % number for number in range(300))
    for line in sent.splitlines(keepends=True):
        lines.put(writer, line)
    assert lines.flush(60)
    assert os.read(reader, 2 * _PIPE_BYTES) == sent
    assert left_out == []


def test_a_line_longer_than_a_pipe_comes_out_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines, _ = started()
    sent = b"y" * 3 * _PIPE_BYTES + b"\n"
    lines.put(writer, sent)
    came = b""
    while not came.endswith(b"\n"):
        came += os.read(reader, _PIPE_BYTES)
    assert came == sent


def test_whoever_has_something_to_say_does_not_wait_for_a_reader_and_is_told_what_was_left_out(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    left_out: list[int] = []

    def tell(count: int) -> None:
        left_out.append(count)
        lines.put(writer, b"LEFT OUT\n")

    lines = LineWriter(2 * _PIPE_BYTES, tell)
    lines.start()
    for _ in range(1000):
        lines.put(writer, _LINE)
    assert not lines.flush(0.01)
    came = b""
    while came.count(_LINE) + sum(left_out) < 1000 or came.count(b"LEFT OUT\n") < len(left_out):
        came += os.read(reader, _PIPE_BYTES)
    assert came.count(_LINE) + sum(left_out) == 1000
    assert sum(left_out) > 500
    # It is told where they would have been.
    assert came.startswith(_LINE)
    assert came.endswith(b"LEFT OUT\n")
    lines.put(writer, _LINE)
    assert lines.flush(60)
    assert os.read(reader, _PIPE_BYTES) == _LINE


def test_a_line_longer_than_there_is_room_for_costs_no_later_one(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines, left_out = started(len(_LINE))
    lines.put(writer, _LINE + _LINE)
    assert lines.flush(60)
    lines.put(writer, _LINE)
    assert lines.flush(60)
    assert (os.read(reader, _PIPE_BYTES), left_out) == (_LINE, [1])


def test_lines_that_cannot_be_written_are_lost_and_later_ones_are_not(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines, _ = started()
    with open("/dev/full", "wb") as full:
        lines.put(full.fileno(), _LINE)
        lines.put(writer, b"next\n")
        assert lines.flush(60)
    assert os.read(reader, 100) == b"next\n"


_LOGS_AND_ENDS = """
import structlog
from retinue_server import log
log.configure("info", "json")
for number in range(400):
    structlog.get_logger().info("event", number=number)
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("log.exit_at_once(70)", 70), ("raise SystemExit(2)", 2)])
def test_what_was_logged_before_a_process_ends_is_written(end: str, code: int) -> None:
    command = [sys.executable, "-c", _LOGS_AND_ENDS.format(end=end)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 400)


@pytest.mark.parametrize(("end", "code"), [("", 0), ("log.exit_at_once(70)", 70), ("raise SystemExit(2)", 2)])
def test_a_reader_that_does_not_read_keeps_no_process_from_ending(
    end: str, code: int, pipe: tuple[int, int]
) -> None:
    command = [sys.executable, "-c", _LOGS_AND_ENDS.format(end=end)]
    assert subprocess.run(command, stderr=pipe[1], check=False, timeout=60).returncode == code
