import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from prometheus_client.samples import Sample
from retinue.v1 import vision_service_pb2 as pb
from structlog.testing import capture_logs
from tests.unit.server.served import served_model

from retinue_server.errors import ModelNotFoundError
from retinue_server.metrics import Metrics
from retinue_server.rpc.interceptor import CallInterceptor, current_call
from retinue_server.rpc.status import DETAILS_KEY

SERVICE = "retinue.v1.VisionService"


class Aborted(Exception):
    """Ends a call, as grpc's own does."""


class FakeContext:
    """Notes how a call was ended."""

    def __init__(self, remaining_seconds: float | None = None) -> None:
        self.remaining_seconds = remaining_seconds
        self.code: grpc.StatusCode | None = None
        self.message = ""
        self.status = Status()

    def time_remaining(self) -> float | None:
        return self.remaining_seconds

    async def abort(self, code: grpc.StatusCode, message: str, trailing_metadata: Any) -> None:
        self.code, self.message = code, message
        ((key, details),) = trailing_metadata
        assert key == DETAILS_KEY
        self.status = Status.FromString(details)
        raise Aborted


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def interceptor(metrics: Metrics) -> CallInterceptor:
    return CallInterceptor(SERVICE, metrics)


async def handler_of(interceptor: CallInterceptor, behaviour: Any, path: str = f"/{SERVICE}/Classify") -> Any:
    async def continuation(details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            behaviour, request_deserializer=pb.ClassifyRequest.FromString
        )

    return await interceptor.intercept_service(continuation, SimpleNamespace(method=path))  # type: ignore[arg-type]


def calls(metrics: Metrics) -> list[Sample]:
    return [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "retinue_requests_total"
    ]


async def test_an_answer_is_passed_on_and_counted(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> str:
        current_call.get().name_model(served_model("a-model", 3))
        return f"answer to {request}"

    handler = await handler_of(interceptor, behaviour)
    assert await handler.unary_unary("question", FakeContext()) == "answer to question"
    (sample,) = calls(metrics)
    assert sample.labels == {"method": "Classify", "model": "a-model", "version": "3", "code": "OK"}
    assert sample.value == 1


async def test_an_error_of_ours_becomes_its_status(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        raise ModelNotFoundError("there is no such model.")

    context = FakeContext()
    handler = await handler_of(interceptor, behaviour)
    with pytest.raises(Aborted):
        await handler.unary_unary(None, context)
    assert (context.code, context.message) == (grpc.StatusCode.NOT_FOUND, "there is no such model.")
    assert context.status.code == grpc.StatusCode.NOT_FOUND.value[0]
    (sample,) = calls(metrics)
    assert (sample.labels["model"], sample.labels["code"]) == ("", "NOT_FOUND")


async def test_any_other_error_is_internal_and_shows_nothing(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        raise KeyError("a secret of /etc/passwd")

    context = FakeContext()
    handler = await handler_of(interceptor, behaviour)
    with capture_logs() as logged, pytest.raises(Aborted):
        await handler.unary_unary(None, context)
    assert context.code is grpc.StatusCode.INTERNAL
    assert "secret" not in context.message
    assert "KeyError" not in context.message
    (event,) = logged
    assert event["event"] == "call_failed"
    assert event["exc_info"]
    assert f"logged it as {event['request_id']}" in context.message
    assert calls(metrics)[0].labels["code"] == "INTERNAL"


async def test_bytes_that_are_no_request_are_told_so(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        raise AssertionError("never called")

    context = FakeContext()
    handler = await handler_of(interceptor, behaviour)
    unreadable = handler.request_deserializer(b"\xff")
    with pytest.raises(Aborted):
        await handler.unary_unary(unreadable, context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no ClassifyRequest" in context.message
    readable = pb.ClassifyRequest(model="a")
    assert handler.request_deserializer(readable.SerializeToString()) == readable


@pytest.mark.parametrize(
    ("remaining_seconds", "code"), [(None, "CANCELLED"), (5.0, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")]
)
async def test_a_caller_who_left_is_told_from_one_whose_time_was_up(
    remaining_seconds: float | None, code: str, interceptor: CallInterceptor, metrics: Metrics
) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        await asyncio.get_running_loop().create_future()

    handler = await handler_of(interceptor, behaviour)
    call = asyncio.ensure_future(handler.unary_unary(None, FakeContext(remaining_seconds)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [sample.labels["code"] for sample in calls(metrics)] == [code]


async def test_other_services_pass_through_untouched(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> str:
        return "healthy"

    handler = await handler_of(interceptor, behaviour, "/grpc.health.v1.Health/Check")
    assert handler.unary_unary is behaviour
    await handler.unary_unary(None, FakeContext())
    assert calls(metrics) == []


async def test_finishing_waits_for_the_calls_in_flight_and_not_for_later_ones(
    interceptor: CallInterceptor,
) -> None:
    gates = {name: asyncio.Event() for name in ("early", "late")}

    async def behaviour(request: Any, context: Any) -> str:
        await gates[request].wait()
        return str(request)

    handler = await handler_of(interceptor, behaviour)
    early = asyncio.ensure_future(handler.unary_unary("early", FakeContext()))
    await asyncio.sleep(0)
    finishing = asyncio.ensure_future(interceptor.finished(60))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(handler.unary_unary("late", FakeContext()))
    await asyncio.sleep(0)
    assert not finishing.done()
    gates["early"].set()
    await finishing
    assert await early == "early"
    assert not late.done()
    gates["late"].set()
    assert await late == "late"


async def test_finishing_gives_up_after_its_time(interceptor: CallInterceptor) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        await asyncio.get_running_loop().create_future()

    handler = await handler_of(interceptor, behaviour)
    endless = asyncio.ensure_future(handler.unary_unary(None, FakeContext()))
    await asyncio.sleep(0)
    await interceptor.finished(0.02)
    assert not endless.done()
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless


async def test_an_interceptor_that_was_never_called_is_quiet_at_once(interceptor: CallInterceptor) -> None:
    await asyncio.wait_for(interceptor.quiet(60, timeout_seconds=60), timeout=5)
    await asyncio.wait_for(interceptor.finished(60), timeout=5)
