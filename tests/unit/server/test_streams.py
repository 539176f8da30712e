"""Streams answer each message as a call of its own, and a caller who leaves leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from retinue.inference import grpc_service_pb2 as pb
from structlog.testing import capture_logs
from tests.unit.server.streams import (
    MOST_BYTES,
    MOST_OF_A_STREAM,
    SERVICE,
    SOON_SECONDS,
    FakeContext,
    Gates,
    answer_to,
    at_once,
    calls,
    counted,
    interceptor_of,
    request_of,
    settle,
    stream_of,
    these,
    until,
)

from retinue_server.errors import ModelNotFoundError
from retinue_server.metrics import Metrics
from retinue_server.rpc.calls import Calls, current_call
from retinue_server.rpc.inference_replies import stream_error
from retinue_server.rpc.inference_wire import check_fields
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.settings import MIB, Settings


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def interceptor(metrics: Metrics) -> CallInterceptor:
    return interceptor_of(metrics)


async def test_a_stream_of_no_messages_ends_with_no_answers(interceptor: CallInterceptor) -> None:
    context = FakeContext()
    await (await stream_of(interceptor, at_once))(these([]), context)
    assert context.written == []


async def test_each_message_is_answered_and_counted_as_a_call(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    gates, context = Gates(), FakeContext()
    gates.open("a", "b", "c")
    await (await stream_of(interceptor, gates))(these(map(request_of, "abc")), context)
    assert sorted(context.ids) == ["a", "b", "c"]
    (sample,) = calls(metrics)
    assert sample.labels == {"method": "ModelStreamInfer", "model": "a-model", "version": "3", "code": "OK"}
    assert sample.value == 3


async def test_answers_are_written_as_they_are_ready(interceptor: CallInterceptor) -> None:
    gates, context = Gates(), FakeContext()
    stream = await stream_of(interceptor, gates)
    running = asyncio.create_task(stream(these(map(request_of, "abc")), context))
    await until(lambda: gates.begun == ["a", "b", "c"])
    for number, name in enumerate("cab", start=1):
        assert not running.done()
        gates.open(name)
        await until(lambda number=number: len(context.written) == number)  # type: ignore[misc]
    await running
    assert context.ids == ["c", "a", "b"]


async def test_answers_come_while_the_caller_has_not_ended_the_stream(interceptor: CallInterceptor) -> None:
    context, more = FakeContext(), asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        yield request_of("first")
        await more.wait()
        yield request_of("second")

    running = asyncio.create_task((await stream_of(interceptor, at_once))(messages(), context))
    await until(lambda: context.ids == ["first"])
    more.set()
    await running
    assert context.ids == ["first", "second"]


async def test_one_answer_is_written_at_a_time(interceptor: CallInterceptor) -> None:
    class SlowContext(FakeContext):
        writing = 0

        async def write(self, reply: bytes) -> None:
            self.writing += 1
            assert self.writing == 1
            await settle()
            self.writing -= 1
            await super().write(reply)

    context = SlowContext()
    await (await stream_of(interceptor, at_once))(these(map(request_of, "abcde")), context)
    assert sorted(context.ids) == ["a", "b", "c", "d", "e"]


async def test_an_error_is_a_message_with_the_requests_id_and_the_stream_goes_on(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    async def behaviour(request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
        if request.model_name == "missing":
            current_call.get().message_id = request.id
            raise ModelNotFoundError("there is no such model.")
        return answer_to(request)

    context = FakeContext()
    messages = [request_of("a"), request_of("b", "missing"), request_of("c")]
    await (await stream_of(interceptor, behaviour))(these(messages), context)
    told = {one.infer_response.id: one.error_message for one in context.written}
    assert told == {"a": "", "b": "MODEL_NOT_FOUND: there is no such model.", "c": ""}
    assert counted(metrics) == {"OK": 2, "NOT_FOUND": 1}


async def test_errors_have_each_their_own_requests_id(interceptor: CallInterceptor) -> None:
    turn = asyncio.Event()

    async def behaviour(request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
        current_call.get().message_id = request.id
        await turn.wait()
        raise ModelNotFoundError(f"no {request.model_name}.")

    context = FakeContext()
    messages = [request_of(f"id {number}", f"model {number}") for number in range(10)]
    running = asyncio.create_task((await stream_of(interceptor, behaviour))(these(messages), context))
    await settle()
    turn.set()
    await running
    assert {one.infer_response.id: one.error_message for one in context.written} == {
        f"id {number}": f"MODEL_NOT_FOUND: no model {number}." for number in range(10)
    }


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff", "REQUEST_UNREADABLE: the bytes of the request are no ModelStreamInferRequest"),
        (b"\x2a\x05abc", "REQUEST_UNREADABLE"),
        (bytes(MOST_BYTES + 1), f"REQUEST_TOO_LARGE: the request has {MOST_BYTES + 1} bytes"),
    ],
)
async def test_a_message_that_is_none_does_not_end_the_stream(
    message: bytes, reason: str, interceptor: CallInterceptor, metrics: Metrics
) -> None:
    context = FakeContext()
    await (await stream_of(interceptor, at_once))(these([message, request_of("next")]), context)
    told = {one.infer_response.id: one.error_message for one in context.written}
    assert told[""].startswith(reason)
    assert told["next"] == ""
    assert counted(metrics) == {"INVALID_ARGUMENT": 1, "OK": 1}


async def test_a_message_of_too_many_fields_is_refused_before_it_is_parsed(metrics: Metrics) -> None:
    interceptor = CallInterceptor({SERVICE: check_fields}, stream_error, Calls(metrics, Settings()), 64 * MIB)
    context = FakeContext()
    await (await stream_of(interceptor, at_once))(these([b"\x2a\x00" * 100_000]), context)
    (one,) = context.written
    assert one.error_message.startswith("TOO_MANY_FIELDS: ")


async def test_any_other_error_is_internal_shows_nothing_and_the_stream_goes_on(
    interceptor: CallInterceptor, metrics: Metrics
) -> None:
    async def behaviour(request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
        current_call.get().message_id = request.id
        if request.id == "bad":
            raise KeyError("a secret of /etc/passwd")
        return answer_to(request)

    context = FakeContext()
    messages = map(request_of, ("good", "bad", "better"))
    with capture_logs() as logged:
        await (await stream_of(interceptor, behaviour))(these(messages), context)
    told = {one.infer_response.id: one.error_message for one in context.written}
    (event,) = logged
    assert told == {
        "good": "",
        "bad": f"INTERNAL: internal error; the server logged it as {event['request_id']}.",
        "better": "",
    }
    assert counted(metrics) == {"OK": 2, "INTERNAL": 1}


async def test_at_most_so_many_messages_of_a_stream_are_answered_at_once(
    interceptor: CallInterceptor,
) -> None:
    gates, context = Gates(), FakeContext()
    ids = [str(number) for number in range(MOST_OF_A_STREAM + 10)]
    taken = 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal taken
        for one in ids:
            taken += 1
            yield request_of(one)

    running = asyncio.create_task((await stream_of(interceptor, gates))(messages(), context))
    await until(lambda: len(gates.begun) == MOST_OF_A_STREAM)
    await settle()
    assert gates.begun == ids[:MOST_OF_A_STREAM]
    # Further ones wait at the caller, but for the next one.
    assert taken == MOST_OF_A_STREAM + 1
    assert len(gates.model.leases) == MOST_OF_A_STREAM
    gates.open("5")
    await until(lambda: len(gates.begun) == MOST_OF_A_STREAM + 1)
    await settle()
    assert (context.ids, taken) == (["5"], MOST_OF_A_STREAM + 2)
    gates.open(*ids)
    await running
    assert sorted(context.ids, key=int) == ids


async def test_errors_make_room_for_further_messages(interceptor: CallInterceptor) -> None:
    async def behaviour(request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
        raise ModelNotFoundError("there is no such model.")

    context = FakeContext()
    stream = await stream_of(interceptor, behaviour)
    async with asyncio.timeout(SOON_SECONDS):
        await stream(these([request_of("a")] * (3 * MOST_OF_A_STREAM)), context)
    assert len(context.written) == 3 * MOST_OF_A_STREAM


async def test_a_caller_who_does_not_read_is_asked_for_no_more_messages(interceptor: CallInterceptor) -> None:
    read = asyncio.Event()

    class UnreadContext(FakeContext):
        async def write(self, reply: bytes) -> None:
            await read.wait()
            await super().write(reply)

    context, taken = UnreadContext(), 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield request_of("a")

    running = asyncio.create_task((await stream_of(interceptor, at_once))(messages(), context))
    await settle()
    assert taken == MOST_OF_A_STREAM + 1
    read.set()
    await running
    assert len(context.written) == 1000


async def test_messages_over_the_limit_of_calls_are_refused_as_messages(metrics: Metrics) -> None:
    interceptor = interceptor_of(metrics, max_concurrent_requests=3)
    gates, context = Gates(), FakeContext()
    running = asyncio.create_task(
        (await stream_of(interceptor, gates))(these(map(request_of, "abcde")), context)
    )
    await until(lambda: len(context.written) == 2)
    assert all(one.error_message.startswith("TOO_MANY_CALLS: ") for one in context.written)
    gates.open(*"abc")
    await running
    assert sorted(context.ids[2:]) == ["a", "b", "c"]
    assert counted(metrics) == {"OK": 3, "RESOURCE_EXHAUSTED": 2}


async def test_a_message_holds_its_bytes_and_its_model_until_its_answer_is_written(metrics: Metrics) -> None:
    interceptor = interceptor_of(metrics, max_bytes_in_flight=1024)
    read = asyncio.Event()

    class UnreadContext(FakeContext):
        async def write(self, reply: bytes) -> None:
            await read.wait()
            await super().write(reply)

    gates, first, second = Gates(), UnreadContext(), FakeContext()
    gates.open("x" * 400)
    stream = await stream_of(interceptor, gates)
    unread = asyncio.create_task(stream(these([request_of("x" * 400)]), first))
    await settle()
    assert len(gates.model.leases) == 1
    await stream(these([request_of("x" * 400)]), second)
    assert second.written[0].error_message.startswith("TOO_MANY_BYTES_IN_FLIGHT: ")
    read.set()
    await unread
    await stream(these([request_of("x" * 400)]), third := FakeContext())
    assert third.ids == ["x" * 400]
    assert len(gates.model.leases) == 0


async def test_a_caller_who_leaves_cancels_what_is_left_and_nothing_stays_held(metrics: Metrics) -> None:
    interceptor = interceptor_of(metrics, max_bytes_in_flight=1024, max_concurrent_requests=3)
    gates, context, stays = Gates(), FakeContext(), asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        for one in "abc":
            yield request_of(one * 200)
        await stays.wait()

    stream = await stream_of(interceptor, gates)
    running = asyncio.create_task(stream(messages(), context))
    gates.open("a" * 200)
    await until(lambda: len(context.written) == 1)
    await until(lambda: len(gates.begun) == 3)
    assert len(gates.model.leases) == 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gates.model.leases.all_returned()
    assert len(gates.model.leases) == 0
    assert counted(metrics) == {"OK": 1, "CANCELLED": 2}
    await asyncio.wait_for(interceptor.calls.finished(60), timeout=5)
    # All places, and all bytes, are free again.
    gates.open(*"def")
    again = FakeContext()
    await stream(these(map(request_of, "def")), again)
    assert sorted(again.ids) == ["d", "e", "f"]
    one = FakeContext()
    gates.open("x" * 450)
    await asyncio.create_task(stream(these([request_of("x" * 450)]), one))
    assert one.ids == ["x" * 450]


async def test_where_an_answer_cannot_be_written_the_others_are_cancelled(
    interceptor: CallInterceptor,
) -> None:
    class BrokenContext(FakeContext):
        async def write(self, reply: bytes) -> None:
            raise asyncio.InvalidStateError("the call is over")

    gates = Gates()
    gates.open("a")
    with pytest.raises(ExceptionGroup):
        await (await stream_of(interceptor, gates))(these(map(request_of, "abc")), BrokenContext())
    await settle()
    assert len(gates.model.leases) == 0


async def test_finishing_waits_for_the_messages_in_flight_and_not_for_the_stream(
    interceptor: CallInterceptor,
) -> None:
    gates, context, stays = Gates(), FakeContext(), asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        yield request_of("a")
        await stays.wait()

    running = asyncio.create_task((await stream_of(interceptor, gates))(messages(), context))
    await until(lambda: gates.begun == ["a"])
    finishing = asyncio.create_task(interceptor.calls.finished(60))
    await settle()
    assert not finishing.done()
    gates.open("a")
    await asyncio.wait_for(finishing, timeout=SOON_SECONDS)
    assert (context.ids, running.done()) == (["a"], False)
    stays.set()
    await running
