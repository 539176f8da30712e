import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client.samples import Sample
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from structlog.testing import capture_logs
from tests.unit.server.served import served_model

from retinue_server.errors import ModelNotFoundError
from retinue_server.metrics import Metrics
from retinue_server.rpc.calls import Calls, current_call
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.rpc.status import DETAILS_KEY
from retinue_server.rpc.wire import check_fields
from retinue_server.settings import Settings

SERVICE = "retinue.v1.VisionService"
MOST_BYTES = 2000
MOST_IMAGES = 8


class Aborted(Exception):
    """Ends a call, as grpc's own does."""


class FakeContext:
    """Notes how a call was ended."""

    def __init__(self, remaining_seconds: float | None = None) -> None:
        self.remaining_seconds = remaining_seconds
        self.request = b""
        self.code: grpc.StatusCode | None = None
        self.message = ""
        self.status = Status()
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.trailing: dict[str, Any] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    def peer(self) -> str:
        return "a caller"

    def set_trailing_metadata(self, trailing: Any) -> None:
        self.trailing = dict(trailing)

    async def read(self) -> bytes:
        return self.request

    def time_remaining(self) -> float | None:
        return self.remaining_seconds

    async def abort(self, code: grpc.StatusCode, message: str, trailing_metadata: Any) -> None:
        self.code, self.message = code, message
        self.set_trailing_metadata(trailing_metadata)
        self.status = Status.FromString(self.trailing[DETAILS_KEY])
        raise Aborted

    @property
    def reason(self) -> str:
        info = ErrorInfo()
        assert self.status.details[0].Unpack(info)
        return info.reason


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def interceptor(metrics: Metrics) -> CallInterceptor:
    settings = Settings(max_concurrent_requests=3, max_request_bytes=MOST_BYTES, max_queue_images=MOST_IMAGES)
    return interceptor_of(metrics, settings)


def interceptor_of(metrics: Metrics, settings: Settings) -> CallInterceptor:
    most = min(settings.max_images_per_request, settings.max_queue_images)
    check = partial(check_fields, max_images=most)
    return CallInterceptor(
        {SERVICE: lambda data, _: check(data)},
        lambda error, request_id: b"",
        Calls(metrics, settings),
        settings.max_request_bytes,
    )


async def ask(handler: Any, request: bytes, context: FakeContext) -> Any:
    """Makes a call with one message, whose caller does not keep it."""
    context.request = request
    return await handler.stream_unary(None, context)


async def never_called(request: Any, context: Any) -> None:
    raise AssertionError("never called")


def request_to(model: str) -> bytes:
    return pb.ClassifyRequest(model=model).SerializeToString()


async def handler_of(
    interceptor: CallInterceptor,
    behaviour: Any,
    path: str = f"/{SERVICE}/Classify",
    parse: Any = pb.ClassifyRequest.FromString,
) -> Any:
    async def continuation(details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour, parse, response_serializer=str.encode)

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
        return f"answer to {request.model}"

    handler = await handler_of(interceptor, behaviour)
    assert await ask(handler, request_to("somebody"), FakeContext()) == b"answer to somebody"
    (sample,) = calls(metrics)
    assert sample.labels == {"method": "Classify", "model": "a-model", "version": "3", "code": "OK"}
    assert sample.value == 1


async def test_an_error_of_ours_becomes_its_status(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        raise ModelNotFoundError("there is no such model.")

    context = FakeContext()
    handler = await handler_of(interceptor, behaviour)
    with pytest.raises(Aborted):
        await ask(handler, b"", context)
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
        await ask(handler, b"", context)
    assert context.code is grpc.StatusCode.INTERNAL
    assert "secret" not in context.message
    assert "KeyError" not in context.message
    (event,) = logged
    assert event["event"] == "call_failed"
    assert event["exc_info"]
    assert f"logged it as {event['request_id']}" in context.message
    assert calls(metrics)[0].labels["code"] == "INTERNAL"


async def test_bytes_that_are_no_request_are_told_so(interceptor: CallInterceptor) -> None:
    context = FakeContext()
    handler = await handler_of(interceptor, never_called)
    with pytest.raises(Aborted):
        await ask(handler, b"\xff", context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no ClassifyRequest" in context.message


async def test_a_request_over_the_size_limit_is_told_the_limit_and_what_to_do(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    context = FakeContext()
    handler = await handler_of(interceptor, never_called)
    with pytest.raises(Aborted):
        await ask(handler, bytes(MOST_BYTES + 1), context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert context.reason == "REQUEST_TOO_LARGE"
    assert f"at most {MOST_BYTES} are taken; send smaller or fewer images" in context.message
    assert [sample.labels["code"] for sample in calls(metrics)] == ["INVALID_ARGUMENT"]


async def test_more_images_than_a_queue_holds_are_refused_before_they_are_parsed(
    interceptor: CallInterceptor,
) -> None:
    context = FakeContext()
    handler = await handler_of(interceptor, never_called, parse=never_called)
    request = pb.ClassifyRequest(images=[image_pb2.Image()] * (MOST_IMAGES + 1))
    with pytest.raises(Aborted):
        await ask(handler, request.SerializeToString(), context)
    assert context.reason == "TOO_MANY_IMAGES"


async def test_more_calls_than_may_run_at_once_are_refused_and_counted(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    gate = asyncio.Event()

    async def behaviour(request: Any, context: Any) -> str:
        await gate.wait()
        return "answer"

    handler = await handler_of(interceptor, behaviour)
    running = [asyncio.ensure_future(ask(handler, b"", FakeContext())) for _ in range(3)]
    await asyncio.sleep(0)
    context = FakeContext()
    with pytest.raises(Aborted):
        await ask(handler, b"", context)
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert context.reason == "TOO_MANY_CALLS"
    assert "taken at once, 3, are being answered" in context.message
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in context.status.details)
    assert [sample.labels["code"] for sample in calls(metrics)] == ["RESOURCE_EXHAUSTED"]
    gate.set()
    assert await asyncio.gather(*running) == [b"answer"] * 3
    # There is room again, also where the refused one was.
    assert await ask(handler, b"", FakeContext()) == b"answer"


async def test_a_reply_that_has_no_room_beside_the_others_is_refused(metrics: Metrics) -> None:
    interceptor = interceptor_of(metrics, Settings(max_bytes_in_flight=1024))

    async def behaviour(request: Any, context: Any) -> str:
        return "x" * 600

    handler = await handler_of(interceptor, behaviour)
    assert len(await asyncio.create_task(ask(handler, b"", FakeContext()))) == 600
    # Tasks that have not ended have not sent their replies.
    sent = asyncio.Event()

    async def answer_slowly() -> None:
        await ask(handler, b"", FakeContext())
        await sent.wait()

    unread = asyncio.create_task(answer_slowly())
    await asyncio.sleep(0)
    context = FakeContext()
    with pytest.raises(Aborted):
        await asyncio.create_task(ask(handler, b"", context))
    assert context.reason == "TOO_MANY_BYTES_IN_FLIGHT"
    sent.set()
    await unread
    assert len(await asyncio.create_task(ask(handler, b"", FakeContext()))) == 600


@pytest.mark.parametrize(
    ("remaining_seconds", "code"), [(None, "CANCELLED"), (5.0, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")]
)
async def test_a_caller_who_left_is_told_from_one_whose_time_was_up(
    remaining_seconds: float | None, code: str, interceptor: CallInterceptor, metrics: Metrics
) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        await asyncio.get_running_loop().create_future()

    handler = await handler_of(interceptor, behaviour)
    call = asyncio.ensure_future(ask(handler, b"", FakeContext(remaining_seconds)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [sample.labels["code"] for sample in calls(metrics)] == [code]


async def test_other_services_pass_through_untouched(interceptor: CallInterceptor, metrics: Metrics) -> None:
    async def behaviour(request: Any, context: Any) -> str:
        return "healthy"

    handler = await handler_of(interceptor, behaviour, "/grpc.health.v1.Health/Check", bytes)
    assert await ask(handler, b"", FakeContext()) == "healthy"
    assert calls(metrics) == []


async def test_finishing_waits_for_the_calls_in_flight_and_not_for_later_ones(
    interceptor: CallInterceptor,
) -> None:
    gates = {name: asyncio.Event() for name in ("early", "late")}

    async def behaviour(request: Any, context: Any) -> str:
        await gates[request.model].wait()
        return str(request.model)

    handler = await handler_of(interceptor, behaviour)
    early = asyncio.ensure_future(ask(handler, request_to("early"), FakeContext()))
    await asyncio.sleep(0)
    finishing = asyncio.ensure_future(interceptor.calls.finished(60))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(ask(handler, request_to("late"), FakeContext()))
    await asyncio.sleep(0)
    assert not finishing.done()
    gates["early"].set()
    await finishing
    assert await early == b"early"
    assert not late.done()
    gates["late"].set()
    assert await late == b"late"


async def test_a_call_holds_its_model_until_its_reply_is_sent(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    model = served_model("a-model", 3)
    answered, sent = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: Any) -> str:
        current_call.get().name_model(model)
        await answered.wait()
        return "answer"

    handler = await handler_of(interceptor, behaviour)

    async def call() -> None:
        # The grpc library's task sends the reply, too.
        await ask(handler, b"", FakeContext())
        await sent.wait()

    running = [asyncio.ensure_future(call()) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(model.leases) == 2
    returned = asyncio.ensure_future(model.leases.all_returned())
    running[0].cancel()
    await asyncio.wait(running[:1])
    answered.set()
    while not any(sample.labels["code"] == "OK" for sample in calls(metrics)):
        await asyncio.sleep(0)
    assert (len(model.leases), returned.done()) == (1, False)
    sent.set()
    await returned
    assert len(model.leases) == 0


async def test_a_call_that_fails_holds_nothing_any_more(interceptor: CallInterceptor) -> None:
    model = served_model("a-model", 3)

    async def behaviour(request: Any, context: Any) -> str:
        current_call.get().name_model(model)
        raise KeyError("a bug")

    handler = await handler_of(interceptor, behaviour)
    with capture_logs(), pytest.raises(Aborted):
        await asyncio.create_task(ask(handler, b"", FakeContext()))
    await model.leases.all_returned()
    assert len(model.leases) == 0


async def test_finishing_gives_up_after_its_time(interceptor: CallInterceptor) -> None:
    async def behaviour(request: Any, context: Any) -> None:
        await asyncio.get_running_loop().create_future()

    handler = await handler_of(interceptor, behaviour)
    endless = asyncio.ensure_future(ask(handler, b"", FakeContext()))
    await asyncio.sleep(0)
    await interceptor.calls.finished(0.02)
    assert not endless.done()
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless


async def test_an_interceptor_that_was_never_called_is_quiet_at_once(interceptor: CallInterceptor) -> None:
    await asyncio.wait_for(interceptor.calls.quiet(60, timeout_seconds=60), timeout=5)
    await asyncio.wait_for(interceptor.calls.finished(60), timeout=5)
