"""What a scoring job shows, with and without a terminal."""

import asyncio
import io
import os
import pty
import re
import subprocess
import sys

from retinue_client.cli._console import console_for
from retinue_client.cli._progress import ScoreProgress

GOOD = {"path": "a.jpg"}
BAD = {"path": "b.jpg", "error_reason": "IMAGE_EMPTY", "error_message": "No bytes."}


def counted(total):
    count = asyncio.Future(loop=asyncio.new_event_loop())
    count.set_result(total)
    count.get_loop().close()
    return count


def test_without_a_terminal_a_line_every_half_minute_says_that_the_job_lives():
    now, output = 100.0, io.StringIO()
    with ScoreProgress(console_for(output), clock=lambda: now) as progress:
        progress.add([GOOD] * 60)
        assert output.getvalue() == ""
        now += 30
        progress.add([GOOD] * 30)
        progress.add([GOOD] * 10)
        progress.count_done(counted(2000))
        now += 40
        progress.add([GOOD] * 999 + [BAD])
    assert output.getvalue().splitlines() == [
        "90 images, 3.0 images/s, 0 failed",
        "b.jpg: IMAGE_EMPTY: No bytes.",
        "1,100 of 2,000 images, 25.2 images/s, 1 failed",
    ]


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
    assert re.search(r"[\d.]+ images/s +1 failed +\d:\d\d:\d\d +left", text)


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
