"""Connections that are old, silent, too many, or have nobody behind them cost nobody an answer."""

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import grpc
import httpx
import psutil
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles, wire
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import connected, flat
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess, running_server

_MOST = 12
_CLASSIFY = "/retinue.v1.VisionService/Classify"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with little patience."""
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    options = {
        "instances": 1,
        "max-connections": _MOST,
        "max-connection-age-seconds": 1,
        "keepalive-seconds": 1,
        "keepalive-timeout-seconds": 1,
        "min-ping-seconds": 600,
        "arrival-timeout-seconds": 2,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with running_server(models, *arguments) as process:
        yield process


@pytest.fixture(autouse=True)
def _answers_afterwards_and_counts(server: ServerProcess) -> Iterator[None]:
    yield

    def answered() -> bool:
        with connected(server.grpc_address) as connection:
            request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 255, 0)])
            return connection.vision.Classify.future(request, timeout=10).exception() is None

    wait_until(answered, "an answer")
    page = MetricsPage(server.http_url)
    assert page.total("retinue_queue_images") == 0


class Proxy:
    """Passes bytes on between callers and a server until it is told to swallow them: then nobody hears of anybody.

    Args:
        address: host:port of the server.
    """

    def __init__(self, address: str) -> None:
        self._to = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._opened: list[socket.socket] = []
        self._ends: list[socket.socket] = []
        self._peers: dict[socket.socket, socket.socket] = {}
        self._closed = threading.Event()
        self.silent = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def close(self) -> None:
        """Ends it, and its connections."""
        self._closed.set()
        self._thread.join()
        for one in (self._listener, *self._opened):
            one.close()

    def _pass_on(self) -> None:
        while not self._closed.is_set():
            ready, _, _ = select.select([self._listener, *self._ends], [], [], 0.02)
            for one in ready:
                if one is self._listener:
                    caller, _ = self._listener.accept()
                    host, port = self._to.rsplit(":", 1)
                    there = socket.create_connection((host, int(port)))
                    self._opened += (caller, there)
                    self._ends += (caller, there)
                    self._peers |= {caller: there, there: caller}
                elif data := _received(one):
                    if not self.silent.is_set():
                        with suppress(OSError):
                            self._peers[one].sendall(data)
                else:
                    # Nobody is told, not even of this.
                    self._ends.remove(one)


def _received(one: socket.socket) -> bytes:
    with suppress(ConnectionError):
        return one.recv(1 << 16)
    return b""


@contextmanager
def _proxied(address: str) -> Iterator[Proxy]:
    proxy = Proxy(address)
    try:
        yield proxy
    finally:
        proxy.close()


def test_calls_go_on_while_connections_grow_old(server: ServerProcess) -> None:
    """A caller is moved to new connections, of which it notices nothing: not one call fails."""
    process, (_, port) = psutil.Process(server.process.pid), server.grpc_address.rsplit(":", 1)
    callers: set[int] = set()
    with connected(server.grpc_address) as connection:
        calls = 0
        while len(callers) < 3:
            assert (
                connection.classify(flat(255, 0, 0), model="colour-classifier").outcomes[0].HasField("result")
            )
            calls += 1
            if calls % 20 == 0:
                open_ones = process.net_connections("tcp")
                callers |= {one.raddr.port for one in open_ones if one.raddr and one.laddr.port == int(port)}
    assert calls > 20


def test_a_call_that_takes_longer_than_its_connection_lives_is_answered(server: ServerProcess) -> None:
    with connected(server.grpc_address) as connection:
        batch = connection.get_model(SLOW_MODEL).execution.max_batch_size
        # Each batch takes a second.
        call = connection.vision.Classify.future(
            pb.ClassifyRequest(model=SLOW_MODEL, images=[flat(255)] * (3 * batch)), timeout=60
        )
        assert all(outcome.HasField("result") for outcome in call.result().outcomes)


def test_the_work_of_a_caller_that_falls_silent_is_dropped(server: ServerProcess) -> None:
    """Neither a farewell nor a reset comes: a cable was pulled, or a firewall forgot the connection."""
    with (
        _proxied(server.grpc_address) as proxy,
        connected(server.grpc_address) as busy,
        connected(proxy.address) as lost,
        engine_held(busy, server),
    ):
        request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)] * 3)
        call = lost.vision.Classify.future(request, timeout=60)
        wait_until(lambda: waiting_images(server.http_url, "colour-classifier") == 3, "its images to wait")
        proxy.silent.set()
        # Long before its deadline.
        wait_until(lambda: waiting_images(server.http_url, "colour-classifier") == 0, "its images to go")
        call.cancel()


def test_who_asks_too_often_whether_the_server_is_there_is_cut_off(server: ServerProcess) -> None:
    with wire.Call(server.grpc_address, "/grpc.health.v1.Health/Watch") as call:
        assert call.is_cut_off_for_pings()


def test_there_are_no_more_connections_than_are_allowed_and_health_answers(server: ServerProcess) -> None:
    host, port = server.grpc_address.rsplit(":", 1)
    with ExitStack() as opened:
        silent = [
            opened.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(_MOST)
        ]
        # All there may be have been taken, so this one is hung up on.
        with socket.create_connection((host, int(port)), timeout=10) as late, suppress(ConnectionResetError):
            assert late.recv(1) == b"" or select.select([late], [], [], 0)
        http = urlsplit(server.http_url)
        for _ in range(2 * _MOST):
            silent.append(
                opened.enter_context(socket.create_connection((http.hostname, http.port), timeout=10))
            )
        assert httpx.get(f"{server.http_url}/livez").status_code == 200
        assert psutil.Process(server.process.pid).num_fds() < 4 * _MOST + 100


def test_more_beside_a_request_than_is_taken_costs_that_call_only(server: ServerProcess) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)])
    with connected(server.grpc_address) as connection:
        with pytest.raises(grpc.RpcError) as raised:
            connection.vision.Classify(request, metadata=[("x-more", "x" * 40_000)], timeout=10)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        few = [("x-some", "x" * 8_000)]
        assert connection.vision.Classify(request, metadata=few, timeout=10).outcomes


@pytest.mark.parametrize("resets", [False, True], ids=["a farewell", "a reset"])
def test_callers_that_vanish_while_they_send_leave_nothing_behind(
    resets: bool, server: ServerProcess
) -> None:
    http = urlsplit(server.http_url)
    assert http.hostname is not None
    head = f"POST /v1/models/colour-classifier:classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**7}\r\n\r\n"
    files = psutil.Process(server.process.pid).num_fds
    before = files()
    linger = struct.pack("ii", int(resets), 0)
    for _ in range(3):
        upload = socket.create_connection((http.hostname, http.port), timeout=10)
        upload.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        upload.sendall(head.encode() + bytes(10**6))
        upload.close()
        call = wire.Call(server.grpc_address, _CLASSIFY)
        call.linger(linger)
        assert call.send(b"\0" + struct.pack(">I", 10**7) + bytes(10**6))
        call.close()
    wait_until(lambda: files() <= before + 1, "the connections to be closed")
    assert not [event for event in server.events if event["level"] == "error"]
