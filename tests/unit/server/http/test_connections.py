"""Connections whose callers stand still are closed; those that work are left alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from retinue_server.connections import ConnectionLimits
from retinue_server.http.server import HttpServer

_HEAD = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A server whose patience is a fiftieth of a second, with other limits where a test has some."""
    limits = replace(ConnectionLimits(arrival_seconds=0.02), **getattr(request, "param", {}))

    async def read(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    async def refuse(request: Request) -> Response:
        return PlainTextResponse("refused", 400)

    async def large(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield bytes(100_000)
            finished.set()

        return StreamingResponse(pieces())

    async def late(request: Request) -> Response:
        await asyncio.sleep(0.1)
        return PlainTextResponse("late")

    endpoints = {"read": read, "refuse": refuse, "large": large, "late": late}
    app = Starlette(routes=[Route(f"/{name}", one, methods=["POST"]) for name, one in endpoints.items()])
    finished = asyncio.Event()
    server = HttpServer(app, "127.0.0.1", 0, limits=limits)
    server.start()
    yield server.port
    await server.stop()


async def talk(port: int, *pieces: bytes, pause_seconds: float = 0) -> bytes:
    """Sends pieces, and reads until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(pause_seconds)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_who_sends_no_request_is_not_waited_for(port: int) -> None:
    assert await talk(port) == b""
    assert await talk(port, b"POST /read HTTP/1.1\r\nHost:") == b""


async def test_who_sends_the_head_byte_by_byte_is_not_waited_for(port: int) -> None:
    assert await talk(port, *[b"P"] * 20, pause_seconds=0.005) == b""


async def test_who_has_a_reply_may_not_go_on_sending_for_ever(port: int) -> None:
    told = await talk(port, _HEAD % (b"refuse", 10**12), *[b"x"] * 20, pause_seconds=0.005)
    assert told == b"" or told.endswith(b"refused")


async def test_a_request_that_works_longer_is_left_alone(port: int) -> None:
    closing = (_HEAD % (b"late", 0)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await talk(port, closing)).endswith(b"late")


async def test_a_body_that_comes_slowly_is_for_the_application_to_wait_for(port: int) -> None:
    head = (_HEAD % (b"read", 10)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await talk(port, head, *[b"x"] * 10, pause_seconds=0.01)).endswith(b"10 bytes")


async def test_who_does_not_read_the_reply_is_not_waited_for(port: int) -> None:
    with capture_logs() as logged:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(_HEAD % (b"large", 0))
        # The kernel's buffers are full, and this side's, too.
        await asyncio.sleep(0.2)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(100_000_000)
        writer.close()
    assert logged == []


async def test_a_connection_may_carry_one_request_after_the_other(port: int) -> None:
    requests = [_HEAD % (b"read", 3) + b"abc", _HEAD % (b"refuse", 3) + b"abc"] * 3
    requests.append((_HEAD % (b"read", 0)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    told = await talk(port, b"".join(requests))
    assert told.count(b"HTTP/1.1 200") == 4
    assert told.count(b"HTTP/1.1 400") == 3


@pytest.mark.parametrize("request_", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_is_told_so(request_: bytes, port: int) -> None:
    assert (await talk(port, request_)).startswith(b"HTTP/1.1 400 ")


async def test_an_upgrade_to_another_protocol_is_not_made(port: int) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n"
    assert (await talk(port, b"GET /read HTTP/1.1\r\nHost: x\r\n" + upgrade)).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("port", [{"age_seconds": 1e-9}], indirect=True)
async def test_an_old_connection_is_closed_with_a_reply_that_says_so(port: int) -> None:
    told = await talk(port, _HEAD % (b"read", 3) + b"abc")
    assert told.endswith(b"3 bytes")
    assert b"connection: close" in told.lower()


@pytest.mark.parametrize("port", [{"head_bytes": 2000}], indirect=True)
async def test_a_head_may_have_so_many_bytes(port: int) -> None:
    def asking(length: int) -> bytes:
        more = b"\r\nX-More: %s\r\nConnection: close\r\n\r\n" % (b"x" * length)
        return (_HEAD % (b"read", 0)).replace(b"\r\n\r\n", more)

    assert (await talk(port, asking(1500))).startswith(b"HTTP/1.1 200 ")
    assert (await talk(port, asking(2500))).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("port", [{"most": 4, "arrival_seconds": 60}], indirect=True)
async def test_the_oldest_idle_connection_makes_room_for_a_new_one(port: int) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    closing = (_HEAD % (b"read", 3)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await talk(port, closing + b"abc")).endswith(b"3 bytes")
    first_reader, _ = silent[0]
    with suppress(ConnectionError):
        assert await asyncio.wait_for(first_reader.read(), 10) == b""
    assert not any(reader.at_eof() for reader, _ in silent[1:])
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("port", [{"most": 1, "arrival_seconds": 60}], indirect=True)
async def test_a_connection_with_a_request_is_never_the_one_that_goes(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HEAD % (b"late", 0))
    assert await talk(port, _HEAD % (b"read", 0)) == b""
    assert (await asyncio.wait_for(reader.readuntil(b"late"), 10)).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize("port", [{"idle_seconds": 0.02, "arrival_seconds": 60}], indirect=True)
async def test_a_connection_that_carries_nothing_more_is_closed(port: int) -> None:
    assert (await talk(port, _HEAD % (b"read", 3) + b"abc")).endswith(b"3 bytes")
