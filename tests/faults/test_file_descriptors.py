"""A server that has no file descriptors left does not spin, and goes on when there are some again."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import connected, flat
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_FILES = 256


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "a front-end"])
def server(request: pytest.FixtureRequest, colour_models: Path) -> Iterator[ServerProcess]:
    """A server with few file descriptors."""
    limited = ("prlimit", f"--nofile={_FILES}")
    with running_server(colour_models, "--workers", str(request.param), under=limited) as process:
        yield process


def _connect(address: str, opened: ExitStack, number: int) -> None:
    host, port = address.rsplit(":", 1)
    for _ in range(number):
        with suppress(OSError):
            opened.enter_context(socket.create_connection((host, int(port)), timeout=5))


def _is_idle(family: list[psutil.Process]) -> bool:
    """Whether processes take little of a core for half a second."""
    for process in family:
        process.cpu_percent()
    with suppress(psutil.TimeoutExpired):
        family[0].wait(0.5)
    return sum(process.cpu_percent() for process in family) < 60


@pytest.mark.parametrize("which", ["gRPC", "HTTP", "both"])
def test_more_connections_than_file_descriptors(which: str, server: ServerProcess) -> None:
    addresses = {"gRPC": server.grpc_address, "HTTP": urlsplit(server.http_url).netloc}
    before = MetricsPage(server.http_url).total("retinue_requests_total", method="Classify", code="OK")
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
    with connected(server.grpc_address) as old, ExitStack() as opened:
        old.list_models()
        for name, address in addresses.items():
            if which in (name, "both"):
                _connect(address, opened, 2 * _FILES)
        # Whoever was there is answered, and so is who asks for health.
        assert old.classify(flat(255, 0, 0)).outcomes[0].HasField("result")
        assert httpx.get(f"{server.http_url}/livez", timeout=20).status_code == 200
        # It waits, and does not try again and again.
        wait_until(lambda: _is_idle(family), "an end of its attempts")
        assert all(process.num_fds() < _FILES for process in family)

    def answered() -> bool:
        with connected(server.grpc_address) as new:
            request = pb.ClassifyRequest(images=[flat(0, 0, 255)])
            return new.vision.Classify.future(request, timeout=10).exception() is None

    wait_until(answered, "an answer on a new connection")
    page = MetricsPage(server.http_url)
    assert page.total("retinue_requests_total", method="Classify", code="OK") == before + 2
    assert page.total("retinue_queue_images") == 0
