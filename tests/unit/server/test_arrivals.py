"""Messages on their way: unpacked within the limits, and given up where they are late or there is no memory."""

import asyncio
import gzip
import zlib
from typing import Any

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server import streams
from tests.unit.server.test_interceptor import (
    MOST_BYTES,
    SERVICE,
    Aborted,
    FakeContext,
    ask,
    calls,
    handler_of,
    interceptor_of,
    never_called,
    request_to,
)

from retinue_server.errors import OverloadedError
from retinue_server.metrics import Metrics
from retinue_server.rpc.arrivals import Arrivals
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.settings import Settings


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def test_a_packed_message_is_unpacked_and_counted(metrics: Metrics) -> None:
    async def behaviour(request: pb.ClassifyRequest, context: Any) -> str:
        return f"answer to {request.model}"

    interceptor = interceptor_of(metrics, Settings(max_request_bytes=MOST_BYTES))
    handler = await handler_of(interceptor, behaviour)
    for pack in (gzip.compress, zlib.compress):
        assert await ask(handler, pack(request_to("somebody")), FakeContext()) == b"answer to somebody"
    for packed, reason in (
        (gzip.compress(bytes(10**6)), "REQUEST_TOO_LARGE"),
        (gzip.compress(request_to("somebody"))[:-3], "CONTENT_ENCODING_INVALID"),
    ):
        context = FakeContext()
        with pytest.raises(Aborted):
            await ask(handler, packed, context)
        assert context.reason == reason


@pytest.mark.parametrize("sent", [grpc.aio.EOF, None], ids=["nothing", "too late"])
async def test_a_message_that_does_not_come_is_given_up(sent: Any, metrics: Metrics) -> None:
    class SilentContext(FakeContext):
        async def read(self) -> Any:
            return sent if sent is not None else await asyncio.Event().wait()

    interceptor = CallInterceptor(
        {SERVICE: lambda data, _: None},
        lambda error, request_id: b"",
        Calls(metrics, Settings()),
        MOST_BYTES,
        Arrivals(0.01),
    )
    context = SilentContext()
    handler = await handler_of(interceptor, never_called)
    with pytest.raises(Aborted):
        await asyncio.create_task(handler.stream_unary(None, context))
    assert context.reason == ("REQUEST_UNREADABLE" if sent is not None else "BODY_TOO_SLOW")
    assert [sample.labels["code"] for sample in calls(metrics)] == ["INVALID_ARGUMENT"]


async def test_without_memory_the_oldest_messages_are_given_up_and_no_more_are_waited_for() -> None:
    full = True
    arrivals = Arrivals(60, lambda: full)

    class SilentContext(FakeContext):
        async def read(self) -> Any:
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(arrivals.one(SilentContext())) for _ in range(4)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert done == set(waiting[:2])
    with pytest.raises(OverloadedError):
        await asyncio.create_task(arrivals.one(SilentContext()))
    await asyncio.wait(waiting)
    assert all(isinstance(task.exception(), OverloadedError) for task in waiting)
    full = False
    assert await arrivals.one(FakeContext()) == b""


async def test_a_quiet_stream_keeps_nothing_of_the_message_before(metrics: Metrics) -> None:
    freed = asyncio.Event()

    class Message(bytes):
        def __del__(self) -> None:
            freed.set()

    class QuietContext(streams.FakeContext):
        asked = 0

        async def read(self) -> Any:
            self.asked += 1
            if self.asked == 1:
                return Message(streams.request_of("a"))
            await asyncio.Event().wait()

    context = QuietContext()
    stream = await streams.stream_of(streams.interceptor_of(metrics), streams.at_once)
    running = asyncio.create_task(stream(streams.these([]), context))
    await streams.until(lambda: context.asked == 2 and bool(context.written))
    await streams.settle()
    assert freed.is_set()
    running.cancel()
    await asyncio.wait([running])


async def test_a_message_about_health_is_small_and_is_read_also_without_memory(metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> str:
        return "healthy"

    class SilentContext(FakeContext):
        async def read(self) -> Any:
            await asyncio.Event().wait()

    arrivals = Arrivals(60, lambda: True)
    interceptor = CallInterceptor({}, lambda error, _: b"", Calls(metrics, Settings()), MOST_BYTES, arrivals)
    with pytest.raises(OverloadedError):
        await asyncio.create_task(arrivals.one(SilentContext()))
    waiting = [asyncio.create_task(arrivals.one(SilentContext(), in_any_case=True)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await arrivals.one(FakeContext())
    handler = await handler_of(interceptor, behaviour, "/grpc.health.v1.Health/Check", bytes)
    assert await ask(handler, b"", FakeContext()) == "healthy"
    context = FakeContext()
    with pytest.raises(Aborted):
        await ask(handler, bytes(10**6), context)
    assert context.reason == "REQUEST_TOO_LARGE"
    given_up = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, OverloadedError) for error in given_up)
