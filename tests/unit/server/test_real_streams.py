"""Streams through the grpc library itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.streams import (
    PATH,
    SERVICE,
    SOON_SECONDS,
    Behaviour,
    Gates,
    counted,
    interceptor_of,
    until,
)

from retinue_server.metrics import Metrics
from retinue_server.rpc.interceptor import CallInterceptor


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def interceptor(metrics: Metrics) -> CallInterceptor:
    return interceptor_of(metrics)


@asynccontextmanager
async def served(interceptor: CallInterceptor, behaviour: Behaviour) -> AsyncIterator[int]:
    """A server of the one method; gives its port."""
    server = grpc.aio.server(interceptors=[interceptor])
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour,
        pb.ModelInferRequest.FromString,
        pb.ModelStreamInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelStreamInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def method_of(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        PATH,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )


async def test_a_real_stream_is_answered_out_of_order_and_ends_well(interceptor: CallInterceptor) -> None:
    gates = Gates()
    gates.open("b")
    async with (
        asyncio.timeout(SOON_SECONDS),
        served(interceptor, gates) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = method_of(channel)()
        await call.write(pb.ModelInferRequest(id="a"))
        await call.write(pb.ModelInferRequest(id="b"))
        assert (await call.read()).infer_response.id == "b"
        gates.open("a")
        await call.done_writing()
        assert (await call.read()).infer_response.id == "a"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("how", ["cancelled", "out of time", "disconnected"])
async def test_whoever_leaves_a_real_stream_leaves_nothing_behind(
    how: str, interceptor: CallInterceptor, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates()
    gates.open("done")
    async with asyncio.timeout(SOON_SECONDS), served(interceptor, gates) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = method_of(channel)(timeout=2 if how == "out of time" else None)
            for one in ("done", "left", "left, too"):
                await call.write(pb.ModelInferRequest(id=one))
            assert (await call.read()).infer_response.id == "done"
            await until(lambda: len(gates.begun) == 3)
            if how == "cancelled":
                call.cancel()
            elif how == "disconnected":
                await channel.close()
            await gates.model.leases.all_returned()
        await until(lambda: sum(counted(metrics).values()) == 3)
        assert counted(metrics)["OK"] == 1
        assert set(counted(metrics)) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED"}
        await interceptor.calls.finished(SOON_SECONDS)
        # The server answers the next one.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            again = method_of(channel)()
            await again.write(pb.ModelInferRequest(id="done"))
            await again.done_writing()
            assert (await again.read()).infer_response.id == "done"
            assert await again.code() is grpc.StatusCode.OK
    assert caplog.records == []
