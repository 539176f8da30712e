"""Whatever callers send, a server keeps to the memory that it was told: it refuses instead of being killed."""

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from PIL import Image
from retinue.v1 import vision_service_pb2 as pb
from tests import wire
from tests.calls import Connection, connected, encoded, flat, refused_image
from tests.metrics_page import wait_until
from tests.server_process import ServerProcess, running_server

_MB = 1_000_000
_LIMIT_BYTES = 512 * _MB
_SIDE = 1400
_CALLERS = 8


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def small_server(request: pytest.FixtureRequest, colour_models: Path) -> Iterator[ServerProcess]:
    """A server that was told to make do with half a gigabyte, and has more decoders than fit there."""
    limit = _LIMIT_BYTES * (1 + request.param)
    options = (
        "--provider",
        "cpu",
        "--instances",
        "8",
        "--decode-threads",
        "16",
        "--memory-limit",
        str(limit),
    )
    with running_server(
        colour_models, *options, "--workers", str(request.param), "--arrival-timeout-seconds", "2"
    ) as server:
        yield server


@pytest.fixture
def watched(small_server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The server, whose processes together have kept to the limit when the test is over, and which answers."""
    done = threading.Event()
    most = 0

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, small_server.family_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield small_server
    finally:
        done.set()
        watcher.join()
    assert most < _LIMIT_BYTES * (1 + request.node.callspec.params["small_server"]), f"{most / _MB:.0f} MB"
    with connected(small_server.grpc_address) as connection:
        _answers_soon(connection)
        (outcome,) = connection.classify(flat(0, 255, 0), model="colour-classifier").outcomes
        assert outcome.result.classes[0].label == "green"


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


WORST: dict[str, Callable[[], bytes]] = {
    "lossless WebP": lambda: _saved(Image.new("RGBA", (_SIDE, _SIDE), (9, 8, 7, 6)), "WEBP", lossless=True),
    "progressive JPEG": lambda: _saved(
        Image.new("RGB", (_SIDE, _SIDE)), "JPEG", progressive=True, subsampling=0
    ),
    "PNG with transparency": lambda: _saved(Image.new("RGBA", (_SIDE, _SIDE)), "PNG"),
}


@pytest.mark.parametrize("what", WORST)
def test_the_worst_images_of_many_callers_wait_for_room(what: str, watched: ServerProcess) -> None:
    image = encoded(WORST[what]())

    def call(_: int) -> None:
        with connected(watched.grpc_address) as connection:
            outcomes = connection.classify(*[image] * 2, model="colour-classifier").outcomes
            assert all(outcome.HasField("result") or refused_image(outcome) for outcome in outcomes)

    with ThreadPoolExecutor(_CALLERS) as callers:
        list(callers.map(call, range(_CALLERS)))


def test_an_image_that_takes_more_than_is_set_aside_is_refused(watched: ServerProcess) -> None:
    data = _saved(Image.new("RGBA", (6500, 6500)), "PNG")
    with connected(watched.grpc_address) as connection:
        outcome, good = connection.classify(
            encoded(data), flat(255, 0, 0), model="colour-classifier"
        ).outcomes
        assert good.result.classes[0].label == "red"
        refusal = refused_image(outcome)
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "IMAGE_TOO_LARGE")
        assert "set aside" in refusal.message


def test_large_requests_of_many_callers_are_refused_in_part(watched: ServerProcess) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[encoded(bytes(8 * _MB))] * 2)
    codes = []

    def call(_: int) -> None:
        with connected(watched.grpc_address) as connection:
            error = connection.vision.Classify.future(request, timeout=60).exception()
            codes.append(error.code() if error is not None else grpc.StatusCode.OK)

    with ThreadPoolExecutor(_CALLERS) as callers:
        list(callers.map(call, range(_CALLERS)))
    assert set(codes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }


@pytest.mark.parametrize("path", ["/retinue.v1.VisionService/Classify", "/grpc.health.v1.Health/Check"])
def test_messages_that_never_end_are_given_up(path: str, watched: ServerProcess) -> None:
    """What has come of them is in memory, and counted by nobody before they are whole."""
    message = b"\0" + struct.pack(">I", 20 * _MB) + bytes(15 * _MB)
    with ExitStack() as opened, ThreadPoolExecutor(_CALLERS) as callers:
        calls = [opened.enter_context(wire.Call(watched.grpc_address, path)) for _ in range(64)]
        list(callers.map(lambda call: call.send(message), calls))
        with connected(watched.grpc_address) as connection:
            _answers_soon(connection)
        # Those for which there was room, too, when their time is over.
        assert all(callers.map(wire.Call.ended, calls))


def _answers_soon(connection: Connection) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)])

    def answered() -> bool:
        return connection.vision.Classify.future(request, timeout=10).exception() is None

    wait_until(answered, "an answer")


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_message_is_unpacked_no_further_than_the_limit(packing: str, watched: ServerProcess) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if packing == "gzip" else 15)
    packed = packer.compress(bytes(40 * _MB)) + packer.flush()
    message = b"\x01" + struct.pack(">I", len(packed)) + packed
    path = "/retinue.v1.VisionService/Classify"
    with ExitStack() as opened, ThreadPoolExecutor(_CALLERS) as callers:
        calls = [opened.enter_context(wire.Call(watched.grpc_address, path, packing)) for _ in range(48)]
        list(callers.map(lambda call: call.send(message), calls))
        with connected(watched.grpc_address) as connection:
            _answers_soon(connection)
        assert all(call.ended() for call in calls)
