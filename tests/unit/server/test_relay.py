"""Calls that front-ends answer for the engine's process have their replies, and their refusals as they were told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import psutil
import pytest
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc

from retinue_server import errors
from retinue_server.rpc.budget import ByteBudget, Holding
from retinue_server.rpc.calls import CALLER, Call, caller_of, current_call
from retinue_server.rpc.relay import Relay
from retinue_server.rpc.status import DETAILS_KEY, grpc_code, to_status

ERRORS = [
    errors.InvalidRequestError("no, grün.", reason="OPTION_INVALID"),
    errors.ModelNotFoundError("no."),
    errors.WrongTaskError("no."),
    errors.UnauthenticatedError("no."),
    errors.PermissionDeniedError("no."),
    errors.UnsupportedError("no."),
    errors.OverloadedError("no.", retry_after_seconds=1.25, reason="TOO_MANY_CALLS"),
    errors.EngineError("no."),
    errors.UnavailableError("no.", reason="DRAINING"),
    errors.DeadlineExpiredError("no."),
]


_STREAMS = 3
METADATA = [("user-id", "ann"), ("cookie", "a=b; c")]
CONTEXT: Any = SimpleNamespace(
    invocation_metadata=lambda: METADATA, time_remaining=lambda: None, peer=lambda: "http:10.0.0.1:50000"
)


@pytest.fixture(autouse=True)
def call() -> Iterator[Call]:
    """That of whoever asks."""
    call = Call(Holding(ByteBudget(1)))
    token = current_call.set(call)
    yield call
    current_call.reset(token)


class Servicer(vision_service_pb2_grpc.VisionServiceServicer):
    """Answers as the test says."""

    def __init__(self) -> None:
        self.error: errors.RetinueError | grpc.StatusCode | None = None
        self.asked: list[Any] = []
        self.callers: list[str] = []
        self.connections: set[str] = set()
        self.beside: list[Any] = []
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
        self.asked.append(request)
        self.callers.append(caller_of(context))
        self.connections.add(context.peer())
        self.beside = list(context.invocation_metadata())
        if isinstance(self.error, grpc.StatusCode):
            await context.abort(self.error, "ipv4:127.0.0.1:1: a secret")
        if self.error is not None:
            details = to_status(self.error).SerializeToString()
            await context.abort(
                grpc_code(self.error.code), self.error.message, trailing_metadata=((DETAILS_KEY, details),)
            )
        return pb.GetModelResponse(model={"name": request.model})

    async def ListModels(self, request: Any, context: Any) -> Any:
        self.began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()


@pytest.fixture
async def front_end() -> AsyncIterator[tuple[Servicer, Relay]]:
    servicer = Servicer()
    server = grpc.aio.server()
    vision_service_pb2_grpc.add_VisionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    relay = Relay([f"127.0.0.1:{port}"] * 2, streams=_STREAMS)
    yield servicer, relay
    await relay.close()
    await server.stop(0)


async def test_a_reply_is_passed_on(front_end: tuple[Servicer, Relay]) -> None:
    servicer, relay = front_end
    for name in ("a", "b", "c"):
        reply = await relay.methods["GetModel"](pb.GetModelRequest(model=name), CONTEXT)
        assert reply == pb.GetModelResponse(model={"name": name})
    assert [request.model for request in servicer.asked] == ["a", "b", "c"]
    assert set(servicer.beside) >= set(METADATA)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_refusal_keeps_code_reason_message_and_delay(
    error: errors.RetinueError, front_end: tuple[Servicer, Relay]
) -> None:
    servicer, relay = front_end
    servicer.error = error
    with pytest.raises(errors.RetinueError) as raised:
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    told = raised.value
    assert (told.code, told.reason, told.message) == (error.code, error.reason, error.message)
    if isinstance(error, errors.OverloadedError):
        assert isinstance(told, errors.OverloadedError)
        assert told.retry_after_seconds == pytest.approx(error.retry_after_seconds)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.UNKNOWN, errors.EngineError),
    ],
)
async def test_what_the_library_says_by_itself_is_not_shown(
    code: grpc.StatusCode, kind: type[errors.RetinueError], front_end: tuple[Servicer, Relay]
) -> None:
    servicer, relay = front_end
    servicer.error = code
    with pytest.raises(kind) as raised:
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert (
        raised.value.message
        == f"the process that was to answer ended the call with {code.name}; retry later."
    )


async def test_nobody_there_is_unavailable() -> None:
    relay = Relay(["127.0.0.1:1"], streams=_STREAMS)
    with pytest.raises(errors.UnavailableError) as raised:
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert "127.0.0.1" not in raised.value.message
    await relay.close()


async def test_a_timeout_goes_with_the_call_and_ends_it(front_end: tuple[Servicer, Relay]) -> None:
    servicer, relay = front_end
    context: Any = SimpleNamespace(**{**vars(CONTEXT), "time_remaining": lambda: 0.05})
    with pytest.raises(
        errors.DeadlineExpiredError, match="timeout passed before it was answered; allow it more time"
    ):
        await relay.methods["ListModels"](pb.ListModelsRequest(), context)
    await asyncio.wait_for(servicer.ended.wait(), 5)


async def test_a_caller_who_leaves_ends_the_call(front_end: tuple[Servicer, Relay]) -> None:
    servicer, relay = front_end
    call = asyncio.ensure_future(relay.methods["ListModels"](pb.ListModelsRequest(), CONTEXT))
    await asyncio.wait_for(servicer.began.wait(), 5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.wait_for(servicer.ended.wait(), 5)


# Who calls


async def test_who_calls_is_told_on_the_private_socket_and_nobody_else_is_believed(tmp_path: Path) -> None:
    servicer, server = Servicer(), grpc.aio.server()
    vision_service_pb2_grpc.add_VisionServiceServicer_to_server(servicer, server)
    private, public = f"unix:{tmp_path}/0.sock", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.add_insecure_port(private)
    await server.start()
    relay = Relay([private], streams=_STREAMS)
    pretends = SimpleNamespace(
        **{**vars(CONTEXT), "invocation_metadata": lambda: [(CALLER, "http:somebody-else"), *METADATA]}
    )
    for context in (CONTEXT, pretends):
        await relay.methods["GetModel"](pb.GetModelRequest(), context)
    assert servicer.callers == ["http:10.0.0.1:50000"] * 2
    async with grpc.aio.insecure_channel(public) as channel:
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        await stub.GetModel(pb.GetModelRequest(), metadata=((CALLER, "http:10.0.0.1:50000"),))
    assert servicer.callers[2].startswith("ipv4:127.0.0.1:")
    await relay.close()
    await server.stop(0)


async def test_a_call_waits_for_no_others_on_its_way(front_end: tuple[Servicer, Relay]) -> None:
    servicer, relay = front_end
    waiting = [
        asyncio.ensure_future(relay.methods["ListModels"](pb.ListModelsRequest(), CONTEXT))
        for _ in range(2 * _STREAMS)
    ]
    await asyncio.wait_for(servicer.began.wait(), 5)
    await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert len(relay._open) == 3
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    for _ in range(6):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    # By turns, and on no further ones.
    assert len(servicer.connections) == 3
    # The last is closed when it is not needed any more.
    assert len(relay._open) == 2
    for _ in range(500):
        if _connections_to(relay._targets[0]) == 2:
            break
        await asyncio.sleep(0.01)
    assert _connections_to(relay._targets[0]) == 2
    servicer.connections.clear()
    for _ in range(6):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert len(servicer.connections) == 2


def _connections_to(target: str) -> int:
    port = int(target.rpartition(":")[2])
    ours = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == port and one.status == "ESTABLISHED" for one in ours)


async def test_a_front_end_that_is_gone_is_passed_over(front_end: tuple[Servicer, Relay]) -> None:
    servicer, _ = front_end
    there = front_end[1]._targets[0]
    relay = Relay(["127.0.0.1:1", there], streams=_STREAMS)
    # The first one may find that out.
    with suppress(errors.UnavailableError):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    servicer.asked.clear()
    for _ in range(4):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert len(servicer.asked) == 4
    assert len(relay._open) == 2
    await relay.close()


async def test_where_no_front_end_is_there_no_connections_pile_up() -> None:
    relay = Relay(["127.0.0.1:1"], streams=_STREAMS)
    for _ in range(4):
        with pytest.raises(errors.UnavailableError):
            await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert len(relay._open) == 1
    await relay.close()


async def test_what_a_front_end_has_answered_or_refused_is_counted_there(
    front_end: tuple[Servicer, Relay], call: Call
) -> None:
    servicer, relay = front_end
    await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert call.passed_on
    servicer.error = errors.ModelNotFoundError("no.")
    with pytest.raises(errors.ModelNotFoundError):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert call.passed_on
    servicer.error = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(errors.UnavailableError):
        await relay.methods["GetModel"](pb.GetModelRequest(), CONTEXT)
    assert not call.passed_on
    context: Any = SimpleNamespace(**{**vars(CONTEXT), "time_remaining": lambda: 0.05})
    with pytest.raises(errors.DeadlineExpiredError):
        await relay.methods["ListModels"](pb.ListModelsRequest(), context)
    assert call.passed_on
