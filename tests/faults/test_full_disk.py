"""A disk that is full, and a log that nobody reads any more, cost nobody an answer."""

import fcntl
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import pytest
from tests import colour_bundles
from tests.calls import connected, encoded, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.ports import free_port
from tests.server_process import START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS, running_server

# Source: pipe(7).
_PIPE_BYTES = 64 * 1024
_FULL_BYTES = _PIPE_BYTES - 4096
_MOST_LINES = 2000
# As on a full disk, files end after some bytes.
_NO_ROOM = ("prlimit", "--fsize=100")


@contextmanager
def _started(
    models: Path, cache: Path, output: IO[str] | int, log: IO[str] | int, *arguments: str
) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """A server whose output nobody may be able to read: it is found by its ports."""
    grpc_port, http_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "retinue_server", "--models", str(models), "--cache-folder", str(cache)),
        *("--grpc-port", str(grpc_port), "--http-port", str(http_port), *arguments),
    ]
    url = f"http://127.0.0.1:{http_port}"
    with subprocess.Popen(command, stdout=output, stderr=log, text=True) as process:
        try:

            def ready() -> bool:
                assert process.poll() is None, f"it ended with {process.poll()}"
                with suppress(httpx.TransportError):
                    return httpx.get(f"{url}/readyz").status_code == 200
                return False

            wait_until(ready, "the server", START_TIMEOUT_SECONDS)
            yield process, f"127.0.0.1:{grpc_port}", url
        finally:
            process.kill()


@pytest.mark.parametrize("workers", [0, 1], ids=["one process", "a front-end"])
def test_a_log_on_a_full_disk_costs_no_answer(workers: int, colour_models: Path, tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("w") as full,
        _started(colour_models, tmp_path, full, full, "--workers", str(workers)) as (process, address, url),
    ):
        _answers(address, url)
        process.terminate()
        assert process.wait(STOP_TIMEOUT_SECONDS) == 0


@pytest.mark.parametrize("workers", [0, 1], ids=["one process", "a front-end"])
def test_a_log_whose_reader_dies_costs_no_answer(workers: int, colour_models: Path, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with _started(colour_models, tmp_path, pipe, pipe, "--workers", str(workers)) as (process, address, url):
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        _answers(address, url)
        process.terminate()
        assert process.wait(STOP_TIMEOUT_SECONDS) == 0


@pytest.mark.parametrize("workers", [0, 1], ids=["one process", "a front-end"])
def test_a_log_whose_reader_does_not_read_costs_no_answer(
    workers: int, colour_models: Path, tmp_path: Path
) -> None:
    pipe = subprocess.PIPE
    options = ("--workers", str(workers), "--access-log-share", "1")
    with _started(colour_models, tmp_path, pipe, pipe, *options) as (process, address, url):
        assert process.stderr is not None
        waiting = process.stderr.fileno()
        with connected(address) as connection:
            for _ in range(_MOST_LINES):
                connection.list_models()
                if _bytes_in(waiting) > _FULL_BYTES:
                    break
            # What holds no more has the next ones wait.
            for _ in range(300):
                connection.list_models()
        assert _FULL_BYTES < _bytes_in(waiting) <= _PIPE_BYTES
        with connected(address) as connection:
            (outcome,) = connection.classify(flat(0, 0, 255)).outcomes
            assert outcome.result.classes[0].label == "blue"
        assert httpx.get(f"{url}/readyz").status_code == 200
        process.terminate()
        assert process.wait(STOP_TIMEOUT_SECONDS) == 0


def _bytes_in(pipe: int) -> int:
    """What nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _answers(address: str, url: str) -> None:
    with connected(address) as connection:
        assert refused(lambda: connection.classify(flat(0), model="nobody")).code == "NOT_FOUND"
        good, bad = connection.classify(flat(0, 0, 255), encoded(b"no image")).outcomes
        assert good.result.classes[0].label == "blue"
        assert bad.HasField("error")
    page = MetricsPage(url)
    assert page.total("retinue_requests_total", method="Classify") == 2
    assert page.total("retinue_queue_images") == 0


def test_a_cache_that_cannot_be_written_is_gone_without_and_left_sound(tmp_path: Path) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    models.mkdir()
    colour_bundles.classifier(models)

    def answered() -> None:
        with connected(server.grpc_address) as connection:
            (outcome,) = connection.classify(flat(255, 0, 0)).outcomes
            assert outcome.result.classes[0].label == "red"
        assert httpx.get(f"{server.http_url}/readyz").status_code == 200

    with running_server(models, "--cache-folder", str(cache), under=_NO_ROOM) as server:
        answered()
        assert server.terminate() == 0
    # What is kept by a server with room for it, and read again by the one after that.
    for _ in range(2):
        with running_server(models, "--cache-folder", str(cache)) as server:
            answered()
            assert server.terminate() == 0
    assert not [event for event in server.events if event["level"] in ("error", "critical")]
