"""The one place where grpc's calls are taken, and errors become statuses."""

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health

from retinue_server.errors import InvalidRequestError, RetinueError
from retinue_server.rpc import packing
from retinue_server.rpc.arrivals import Arrivals
from retinue_server.rpc.calls import Call, Calls, current_call
from retinue_server.rpc.status import DETAILS_KEY, grpc_code, to_status
from retinue_server.tracing.origin import REQUEST_ID_KEY

# Generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
GrpcContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# What orchestrators ask, of whom nobody wants to hand a token to.
_OPEN_SERVICES = frozenset({health.SERVICE_NAME})
# Messages of one stream that are answered at once; further ones wait at the caller.
_MOST_OF_A_STREAM = 64
# Of a message about health or reflection, packed or not.
_MOST_OF_A_SERVICE_BYTES = 65_536

Trailing: TypeAlias = tuple[tuple[str, str], ...]
Answer: TypeAlias = Callable[[bytes, GrpcContext], Awaitable[bytes]]
# Refuses the bytes of a method's request that would take many times their size once they are read.
Check: TypeAlias = Callable[[bytes, str], None]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of some services: has their calls bounded and counted, and tells callers of errors.

    Each message of a stream is a call of its own. They are answered as they are ready, and so many at once that those
    of one stream cannot take all there is.

    Args:
        services: Their full names, each with what checks its requests; other services pass through untouched.
        stream_error: Makes a stream's message of an error and the request's id, since a status would end the stream.
        calls: Bounds and counts them.
        max_request_bytes: What one call may carry.
        arrivals: Looks after messages that are on their way.

    Attributes:
        calls: Those that it was given.
    """

    def __init__(
        self,
        services: Mapping[str, Check],
        stream_error: Callable[[RetinueError, str], bytes],
        calls: Calls,
        max_request_bytes: int,
        arrivals: Arrivals | None = None,
    ) -> None:
        self._arrivals = arrivals or Arrivals(math.inf)
        self._services = services
        self._stream_error = stream_error
        self.calls = calls
        self._max_request_bytes = max_request_bytes
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Returns the method's handler, wrapped once and kept."""
        path = handler_call_details.method
        service, _, method = path.removeprefix("/").partition("/")
        if self.calls.access.guarded and service not in _OPEN_SERVICES:
            try:
                self.calls.check(method, handler_call_details.invocation_metadata or ())
            except RetinueError as error:
                return _refusing(error)
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                # An unknown method: grpc answers UNIMPLEMENTED.
                return handler
            self._wrapped[path] = self._wrap(handler, service, method)
        return self._wrapped[path]

    def _wrap(self, handler: Handler, service: str, method: str) -> Handler:
        check = self._services.get(service)
        if check is None:
            return self._waited_for(handler)
        # Bytes in, bytes out. Whatever a deserializer raises, grpc answers with UNKNOWN and the text of the
        # exception, and a reply that it serialized itself would stay in memory twice while it is sent.
        answer = partial(self._answer, method, check, handler)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(partial(self._answer_stream, answer))
        # On the wire a stream of one message is what a single one is. But for that one grpc waits itself, and nobody
        # could give it up.
        return grpc.stream_unary_rpc_method_handler(_or_abort(answer, self._read_one, method))

    def _waited_for(self, handler: Any) -> Handler:
        """A method of the grpc library's own, whose messages are waited for likewise."""

        async def read(data: Any) -> Any:
            if packing.is_packed(data):
                data = await packing.unpacked(data, lambda size: None, _MOST_OF_A_SERVICE_BYTES)
            check_size(len(data), _MOST_OF_A_SERVICE_BYTES)
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                raise InvalidRequestError(
                    "the bytes of the request are no message of this method.", reason="REQUEST_UNREADABLE"
                ) from error

        async def read_one(context: GrpcContext) -> Any:
            # Whoever asks for health must not be told, by no answer, that the server is not there.
            return await read(await self._arrivals.one(context, in_any_case=True))

        async def each(context: GrpcContext) -> AsyncIterator[Any]:
            async for data in self._arrivals.each(context):
                yield await read(data)

        async def one(messages: AsyncIterable[Any], context: GrpcContext) -> Any:
            try:
                return await handler.unary_unary(await read_one(context), context)
            except RetinueError as error:
                await _abort(context, error)

        async def one_of_many(messages: AsyncIterable[Any], context: GrpcContext) -> None:
            try:
                await handler.unary_stream(await read_one(context), context)
            except RetinueError as error:
                await _abort(context, error)

        async def many(messages: AsyncIterable[Any], context: GrpcContext) -> AsyncIterator[Any]:
            try:
                async for reply in handler.stream_stream(each(context), context):
                    yield reply
            except RetinueError as error:
                await _abort(context, error)

        write = handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(many, None, write)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(one_of_many, None, write)
        return grpc.stream_unary_rpc_method_handler(one, None, write)

    async def _read_one(self, context: GrpcContext, method: str) -> Any:
        try:
            return await self._arrivals.one(context)
        except RetinueError as error:
            self.calls.count_refused(method, error)
            raise

    async def _answer_stream(
        self, answer: Answer, messages: AsyncIterable[bytes], context: GrpcContext
    ) -> None:
        room = asyncio.Semaphore(_MOST_OF_A_STREAM)
        turn = asyncio.Lock()
        stream = asyncio.current_task()
        assert stream is not None

        async def one(data: bytes) -> None:
            try:
                reply = await answer(data, context)
            except RetinueError as error:
                reply = self._stream_error(error, current_call.get().message_id)
            del data
            try:
                async with turn:
                    await context.write(reply)
            except grpc.aio.BaseError:
                # The caller has left, and need not be told of what is left.
                stream.cancel()
            room.release()

        refusal: RetinueError | None = None
        # Ends when all are answered; a caller who leaves cancels what is left.
        async with asyncio.TaskGroup() as tasks:
            try:
                async for data in self._arrivals.each(context):
                    await room.acquire()
                    tasks.create_task(one(data))
                    # The stream may be quiet for long.
                    del data
            except RetinueError as error:
                refusal = error
        if refusal is not None:
            await _abort(context, refusal)

    def _answer(
        self, method: str, check: Check, handler: Any, data: bytes, context: GrpcContext
    ) -> Awaitable[bytes]:
        """Answers one message. No coroutine of its own, whose frame would keep the bytes of one that is refused.

        Raises:
            RetinueError: Why there is no answer.
        """
        return self.calls.answer(method, context, partial(self._work, method, check, handler, data, context))

    async def _work(
        self, method: str, check: Check, handler: Any, data: bytes, context: GrpcContext, call: Call
    ) -> bytes:
        check_size(len(data), self._max_request_bytes)
        call.holding.hold_request(len(data))
        if packing.is_packed(data):
            data = await packing.unpacked(data, call.holding.hold_request, self._max_request_bytes)
        request = _read(data, method, check, handler.request_deserializer)
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_unary
        reply: bytes = handler.response_serializer(await behaviour(request, context))
        call.holding.hold_reply(len(reply))
        return reply


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Refuses a request that has more bytes than one may carry.

    Raises:
        InvalidRequestError: It has.
    """
    if size_bytes > max_bytes:
        raise InvalidRequestError(
            f"the request has {size_bytes} bytes, but at most {max_bytes} are taken; send smaller or fewer images.",
            reason="REQUEST_TOO_LARGE",
        )


def _refusing(error: RetinueError) -> Handler:
    """Ends a call of any kind without reading a message of it: on the wire all kinds begin alike."""

    async def run(messages: AsyncIterable[bytes], context: GrpcContext) -> None:
        await _abort(context, error)

    return grpc.stream_stream_rpc_method_handler(run)


def _or_abort(answer: Answer, read: Callable[[GrpcContext, str], Awaitable[Any]], method: str) -> Any:
    """Answers a call, and ends it with a status where there is no answer."""

    async def run(messages: AsyncIterable[bytes], context: GrpcContext) -> bytes:
        data = b""
        try:
            data = await read(context, method)
            reply = await answer(data, context)
        except RetinueError as error:
            del data
            await _abort(context, error, _request_id())
        context.set_trailing_metadata(_request_id())
        return reply

    return run


def _request_id() -> Trailing:
    """Tells the caller the id of the call that has just been answered; what never came as a whole was none."""
    call = current_call.get(None)
    return () if call is None else ((REQUEST_ID_KEY, call.origin.request_id),)


def _read(data: bytes, method: str, check: Check, parse: Any) -> Any:
    try:
        check(data, method)
        return parse(data)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the bytes of the request are no {method}Request; build it with code generated from the protos.",
            reason="REQUEST_UNREADABLE",
        ) from error


async def _abort(context: GrpcContext, error: RetinueError, more: Trailing = ()) -> NoReturn:
    # The context keeps what ends it, with the error; whose frames would keep the request until the next collection.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    status = to_status(error)
    details = ((DETAILS_KEY, status.SerializeToString()), *more)
    await context.abort(grpc_code(error.code), status.message, trailing_metadata=details)
    raise AssertionError("abort always raises")
