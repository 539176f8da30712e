"""The one place where errors become statuses and calls are counted."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from retinue_server.catalog import Leases, ServedModel
from retinue_server.errors import InvalidRequestError, OverloadedError, RetinueError
from retinue_server.metrics import Metrics
from retinue_server.rpc.budget import ByteBudget, Holding
from retinue_server.rpc.status import DETAILS_KEY, grpc_code, to_status
from retinue_server.settings import Settings

_log = structlog.get_logger(__name__)

# Generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# Messages of one stream that are answered at once; further ones wait at the caller.
_MOST_OF_A_STREAM = 64

_POLL_SECONDS = 0.01
_RETRY_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class Call:
    """What is counted of a call. The model stays empty until the servicer has found one that is served."""

    holding: Holding
    model: str = ""
    version: str = ""
    leases: Leases | None = None
    # What a caller knows it by among the messages of a stream.
    request_id: str = ""

    def name_model(self, model: ServedModel) -> None:
        """Notes which model the call is for, and holds it until the call ends. Called once."""
        self.model, self.version = model.name, str(model.version)
        self.leases = model.leases
        self.leases.take()


current_call: ContextVar[Call] = ContextVar("current_call")


Answer: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
# Refuses the bytes of a method's request that would take many times their size once they are read.
Check: TypeAlias = Callable[[bytes, str], None]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of some services: refuses calls over the limits, counts all, and tells callers of errors.

    Each message of a stream is a call of its own. They are answered as they are ready, and so many at once that those
    of one stream cannot take all there is.

    Args:
        services: Their full names, each with what checks its requests; other services pass through untouched.
        stream_error: Makes a stream's message of an error and the request's id, since a status would end the stream.
        metrics: Where calls are counted.
        settings: Limits of calls and of what one may carry.
    """

    def __init__(
        self,
        services: Mapping[str, Check],
        stream_error: Callable[[RetinueError, str], bytes],
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._services = services
        self._stream_error = stream_error
        self._metrics = metrics
        self._max_calls = settings.max_concurrent_requests
        self._max_request_bytes = settings.max_request_bytes
        self._budget = ByteBudget(settings.max_bytes_in_flight)
        self._wrapped: dict[str, Handler] = {}
        self._running: set[Call] = set()
        self._last_began = -math.inf

    async def finished(self, timeout_seconds: float) -> None:
        """Waits until the replies of the calls that run now are sent, or the timeout; not for those that come later."""
        running = set(self._running)
        give_up = time.perf_counter() + timeout_seconds
        while not running.isdisjoint(self._running) and time.perf_counter() < give_up:
            await asyncio.sleep(_POLL_SECONDS)

    async def quiet(self, seconds: float, timeout_seconds: float) -> None:
        """Waits until no call has begun for some time, or the timeout."""
        give_up = time.perf_counter() + timeout_seconds
        while time.perf_counter() < min(self._last_began + seconds, give_up):
            await asyncio.sleep(_POLL_SECONDS)

    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Returns the method's handler, wrapped once and kept."""
        path = handler_call_details.method
        service, _, method = path.removeprefix("/").partition("/")
        check = self._services.get(service)
        if check is None:
            return await continuation(handler_call_details)
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                # An unknown method: grpc answers UNIMPLEMENTED.
                return handler
            # Bytes in, bytes out. Whatever a deserializer raises, grpc answers with UNKNOWN and the text of the
            # exception, and a reply that it serialized itself would stay in memory twice while it is sent.
            answer = partial(self._answer, method, check, handler)
            self._wrapped[path] = (
                grpc.stream_stream_rpc_method_handler(partial(self._answer_stream, answer))
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler(_or_abort(answer))
            )
        return self._wrapped[path]

    async def _answer_stream(self, answer: Answer, messages: AsyncIterable[bytes], context: Context) -> None:
        room = asyncio.Semaphore(_MOST_OF_A_STREAM)
        turn = asyncio.Lock()
        stream = asyncio.current_task()
        assert stream is not None

        async def one(data: bytes) -> None:
            try:
                reply = await answer(data, context)
            except RetinueError as error:
                reply = self._stream_error(error, current_call.get().request_id)
            del data
            try:
                async with turn:
                    await context.write(reply)
            except grpc.aio.BaseError:
                # The caller has left, and need not be told of what is left.
                stream.cancel()
            room.release()

        # Ends when all are answered; a caller who leaves cancels what is left.
        async with asyncio.TaskGroup() as tasks:
            async for data in messages:
                await room.acquire()
                tasks.create_task(one(data))

    async def _answer(self, method: str, check: Check, handler: Any, data: bytes, context: Context) -> bytes:
        """Answers one message.

        Raises:
            RetinueError: Why there is no answer.
        """
        began = self._last_began = time.perf_counter()
        call = Call(Holding(self._budget))
        current_call.set(call)
        code = grpc.StatusCode.OK
        try:
            self._check_room()
            self._check_size(data)
            self._running.add(call)
            _when_sent(partial(self._forget, call))
            call.holding.hold_request(len(data))
            request = _read(data, method, check, handler.request_deserializer)
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_unary
            return _counted(handler.response_serializer(await behaviour(request, context)), call)
        except RetinueError as error:
            code = grpc_code(error.code)
            # The frames of the error, and of the one that ends the call, would keep the request's bytes until the
            # next garbage collection.
            del data
            error.__cause__ = error.__context__ = error.__traceback__ = None
            raise
        except asyncio.CancelledError:
            code = _cancelled_code(context)
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            request_id = secrets.token_hex(8)
            _log.exception("call_failed", method=method, model=call.model, request_id=request_id)
            raise RetinueError(f"internal error; the server logged it as {request_id}.") from None
        finally:
            seconds = time.perf_counter() - began
            self._metrics.count_call(method, call.model, call.version, code.name, seconds)

    def _check_room(self) -> None:
        if len(self._running) >= self._max_calls:
            raise OverloadedError(
                f"as many calls as are taken at once, {self._max_calls}, are being answered; retry later.",
                retry_after_seconds=_RETRY_SECONDS,
                reason="TOO_MANY_CALLS",
            )

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._max_request_bytes:
            raise InvalidRequestError(
                f"the request has {len(data)} bytes, but at most {self._max_request_bytes} are taken; send smaller or "
                "fewer images.",
                reason="REQUEST_TOO_LARGE",
            )

    def _forget(self, call: Call) -> None:
        self._running.discard(call)
        call.holding.release()
        # It has been counted, so that labels of a model that goes now do not come again.
        if call.leases is not None:
            call.leases.give_back()


def _or_abort(answer: Answer) -> Any:
    """Answers a call, and ends it with a status where there is no answer."""

    async def run(data: bytes, context: Context) -> bytes:
        try:
            return await answer(data, context)
        except RetinueError as error:
            del data
            error.__traceback__ = None
            await _abort(context, error)

    return run


def _read(data: bytes, method: str, check: Check, parse: Any) -> Any:
    try:
        check(data, method)
        return parse(data)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the bytes of the request are no {method}Request; build it with code generated from the protos.",
            reason="REQUEST_UNREADABLE",
        ) from error


def _when_sent(forget: Callable[[], None]) -> None:
    """Calls back when the running call's reply has been sent, or never will be.

    The grpc library answers each call in a task of its own, which ends then. The context's own callbacks would tie the
    call into a reference cycle.
    """
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: forget())


def _counted(reply: bytes, call: Call) -> bytes:
    call.holding.hold_reply(len(reply))
    return reply


async def _abort(context: Context, error: RetinueError) -> NoReturn:
    details = to_status(error).SerializeToString()
    await context.abort(grpc_code(error.code), error.message, trailing_metadata=((DETAILS_KEY, details),))
    raise AssertionError("abort always raises")


def _cancelled_code(context: Context) -> grpc.StatusCode:
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
