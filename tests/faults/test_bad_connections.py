"""Clients that vanish, and connections that speak nothing sensible."""

import random
import signal
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from tests import wire
from tests.busy import engine_held
from tests.calls import Connection, flat
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ROOT, ServerProcess

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _DATA = 1, 4, 0
_END_HEADERS = 4
_NOISE = random.Random(0).randbytes(4096)
_CALLER = """
import sys
from tests.calls import connected, flat
with connected(sys.argv[1]) as connection:
    while True:
        connection.classify(*[flat(255, 0, 0)] * 7, model="colour-classifier")
"""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame. Source: RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _header(name: str, value: str) -> bytes:
    """A header field, neither indexed nor compressed. Source: RFC 7541, section 6.2.2."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def _half_a_call() -> bytes:
    """The beginning of a Classify call whose message ends before its announced length."""
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/retinue.v1.VisionService/Classify"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
    )
    message = b"\0" + struct.pack(">I", 1_000_000) + bytes(1000)
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, headers)
        + _frame(_DATA, 0, 1, message)
    )


GARBAGE = {
    "noise": _NOISE,
    "zeros": bytes(4096),
    "HTTP/1.1": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "the hello of TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + _NOISE[:160],
    "half of the preface": _PREFACE[:10],
    "the preface and noise": _PREFACE + _NOISE,
    "a frame that is too large": _PREFACE + _frame(_SETTINGS, 0, 0, b"") + b"\xff\xff\xff" + bytes(2000),
    "headers that are not compressed headers": _PREFACE
    + _frame(_SETTINGS, 0, 0, b"")
    + _frame(_HEADERS, _END_HEADERS, 1, b"\xff" * 100),
    "data without a stream": _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_DATA, 0, 99, bytes(100)),
    "half of a call": _half_a_call(),
}


def _connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def _open_files(server: ServerProcess) -> int:
    return psutil.Process(server.process.pid).num_fds()


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_on_the_grpc_port_harms_nobody(
    what: str, connection: Connection, fault_server: ServerProcess
) -> None:
    with _connect(fault_server.grpc_address) as client:
        client.sendall(GARBAGE[what])
        # The server greets, or hangs up; either way it has looked at what came.
        with suppress(ConnectionResetError):
            client.recv(1)
    assert not any("Traceback" in line for line in fault_server.stderr_lines if not line.startswith("{"))


def test_what_comes_beside_a_call_and_is_no_text_is_no_line_of_the_log(
    connection: Connection, fault_server: ServerProcess
) -> None:
    odd = b"\0\x0cx-request-id\x02\xff\xfe" + b"\0\x0btraceparent\x02\xff\xfe"
    headers = wire.call_headers("/retinue.v1.VisionService/ListModels") + odd
    with _connect(fault_server.grpc_address) as client:
        client.sendall(
            wire.PREFACE
            + wire.frame(wire.SETTINGS, 0, 0, b"")
            + wire.frame(wire.HEADERS, wire.END_HEADERS, 1, headers)
            + wire.frame(wire.DATA, 1, 1, bytes(5))
        )
        told = b""
        while b"grpc-status" not in told:
            piece = client.recv(65536)
            assert piece, told
            told += piece
    assert not [line for line in fault_server.stderr_lines if "Invalid encoding" in line]


@pytest.mark.parametrize("what", ["noise", "half of the preface", "half of a call"])
def test_garbage_on_the_http_port_harms_nobody(
    what: str, connection: Connection, fault_server: ServerProcess
) -> None:
    with _connect(urlsplit(fault_server.http_url).netloc) as client:
        client.sendall(GARBAGE[what])
    assert httpx.get(f"{fault_server.http_url}/readyz").status_code == 200


def test_a_client_that_is_killed_leaves_the_queue(
    connection: Connection, fault_server: ServerProcess
) -> None:
    def images_run() -> float:
        return MetricsPage(fault_server.http_url).value("retinue_batch_size_sum", model="colour-classifier")

    def images_waiting() -> float:
        return waiting_images(fault_server.http_url, "colour-classifier")

    before = images_run()
    command = [sys.executable, "-c", _CALLER, fault_server.grpc_address]
    with subprocess.Popen(command, cwd=ROOT) as client:
        try:
            wait_until(lambda: images_run() > before, "the client to call")
            with engine_held(connection, fault_server, waiting=8):
                wait_until(lambda: images_waiting() == 7, "the client's images to wait")
                before = images_run()
                client.send_signal(signal.SIGKILL)
                wait_until(lambda: images_waiting() == 0, "the client's images to leave the queue")
        finally:
            client.kill()
    connection.classify(flat(0), model="colour-classifier")
    # Only this last one has run.
    wait_until(lambda: images_run() == before + 1, "one image to be counted")


def test_many_connections_opened_and_dropped_leave_nothing_behind(
    connection: Connection, fault_server: ServerProcess
) -> None:
    connection.list_models()
    before = _open_files(fault_server)
    with ExitStack() as opened:
        clients = [opened.enter_context(_connect(fault_server.grpc_address)) for _ in range(64)]
        for number, client in enumerate(clients):
            client.sendall(
                (b"", _PREFACE, _PREFACE + _frame(_SETTINGS, 0, 0, b""), _half_a_call())[number % 4]
            )
        wait_until(lambda: _open_files(fault_server) >= before + 64, "the connections to be taken")
        # While they are open, others are answered.
        assert connection.list_models()
        for number, client in enumerate(clients):
            if number % 2:
                # Dropped by a reset instead of a farewell.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: _open_files(fault_server) <= before + 2, "the connections to be closed")
