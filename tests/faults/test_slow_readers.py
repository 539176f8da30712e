"""Callers that do not read their replies: they take room until they do, and a server that stops waits for them."""

import io
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles
from tests.busy import engine_held
from tests.calls import Connection, connected, encoded, flat, refused
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ROOT, ServerProcess, running_server

_SEGMENTER = "colour-segmenter"
_SIDE = 6000
_MASK_BYTES = _SIDE * _SIDE
# In a process of its own, which can be stopped before it reads.
_CALLER = """
import sys
from tests.calls import connected, encoded
from retinue.v1 import vision_service_pb2 as pb
image = encoded(sys.stdin.buffer.read())
with connected(sys.argv[1]) as connection:
    (outcome,) = connection.segment(image, model="colour-segmenter", mask_format=pb.MASK_FORMAT_RAW).outcomes
print(len(outcome.result.raw))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    colour_bundles.segmenter(models)
    odd_bundles.slow_classifier(models)
    return models


def _large_image() -> bytes:
    """A file of some kilobytes, whose mask takes megabytes."""
    buffer = io.BytesIO()
    Image.new("L", (_SIDE, _SIDE)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _unread_reply(server: ServerProcess, connection: Connection) -> Iterator[subprocess.Popen[bytes]]:
    """A caller that stands still before the reply to its call is made, and so does not read it."""
    command = [sys.executable, "-c", _CALLER, server.grpc_address]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        try:
            assert caller.stdin is not None
            with engine_held(connection, server):
                caller.stdin.write(_large_image())
                caller.stdin.close()
                wait_until(lambda: waiting_images(server.http_url, _SEGMENTER) == 1, "the caller to wait")
                caller.send_signal(signal.SIGSTOP)
            wait_until(lambda: _answered(server) == 1, "the reply to be made")
            yield caller
        finally:
            caller.kill()


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_requests_total", method="Segment", code="OK")


def _read_at_last(caller: subprocess.Popen[bytes]) -> int:
    """Lets the caller go on, and returns how many bytes of mask it got."""
    caller.send_signal(signal.SIGCONT)
    assert caller.stdout is not None
    received = caller.stdout.read()
    assert caller.wait(20) == 0
    return int(received)


def _room_for_one(models: Path) -> AbstractContextManager[ServerProcess]:
    """A server in which one large mask fits, and not two."""
    return running_server(models, "--instances", "1", "--max-bytes-in-flight", str(_MASK_BYTES * 3 // 2))


def test_a_reply_takes_room_until_it_is_read(models: Path) -> None:
    image = encoded(_large_image())
    with _room_for_one(models) as server, connected(server.grpc_address) as connection:
        with _unread_reply(server, connection) as caller:
            refusal = refused(
                lambda: connection.segment(image, model=_SEGMENTER, mask_format=pb.MASK_FORMAT_RAW)
            )
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_BYTES_IN_FLIGHT")
            assert refusal.retry_after_seconds is not None
            # What has room beside it is answered.
            assert (
                connection.classify(flat(255, 0, 0), model="colour-classifier").outcomes[0].HasField("result")
            )
            assert _read_at_last(caller) == _MASK_BYTES
        for _ in range(3):
            (outcome,) = connection.segment(image, model=_SEGMENTER, mask_format=pb.MASK_FORMAT_RAW).outcomes
            assert outcome.HasField("result")


def test_the_room_of_a_caller_that_is_killed_before_it_reads_is_free_again(models: Path) -> None:
    image = encoded(_large_image())
    with _room_for_one(models) as server, connected(server.grpc_address) as connection:
        with _unread_reply(server, connection):
            pass

        def answered() -> bool:
            request = pb.SegmentRequest(model=_SEGMENTER, images=[image], mask_format=pb.MASK_FORMAT_RAW)
            return connection.vision.Segment.future(request).exception() is None

        wait_until(answered, "the room to be free")


def test_sigterm_waits_for_a_reply_that_is_being_read(models: Path) -> None:
    with (
        running_server(models, "--instances", "1") as server,
        connected(server.grpc_address) as connection,
        _unread_reply(server, connection) as caller,
    ):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_event("draining")
        for _ in range(3):  # it goes on draining
            assert refused(lambda: connection.classify(flat(0))).reason == "DRAINING"
        assert server.process.poll() is None
        assert _read_at_last(caller) == _MASK_BYTES
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [0, 2], ids=["one process", "two front-ends"])
def test_sigterm_waits_for_a_reply_over_http_that_is_being_read(workers: int, models: Path) -> None:
    image = _large_image()
    path = "/v1/models/colour-segmenter:segment?mask_format=raw"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(image)}\r\n\r\n"
    with running_server(models, "--workers", str(workers)) as server, socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((urlsplit(server.http_url).hostname, urlsplit(server.http_url).port))
        caller.sendall(head.encode() + image)
        # The first bytes have come, and the rest waits.
        assert caller.recv(13, socket.MSG_WAITALL) == b"HTTP/1.1 200 "
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_event("draining")
        received = b""
        # Longer than the second that connections without a call are given.
        for _ in range(15):
            received += caller.recv(1 << 16)
            time.sleep(0.1)
        received += b"".join(iter(lambda: caller.recv(1 << 20), b""))
        assert len(received) > _MASK_BYTES
        assert server.wait() == 0
        assert not [event for event in server.events if event["level"] == "error"]
