"""A request over HTTP as a call like gRPC's: the same limits, errors and metrics."""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from retinue_server.errors import Code, OverloadedError, PermissionDeniedError, RetinueError
from retinue_server.http import body
from retinue_server.http.body import CallerLeft
from retinue_server.http.messages import to_json
from retinue_server.rpc.calls import Call, Calls, current_call
from retinue_server.settings import Settings
from retinue_server.tracing.origin import REQUEST_ID_KEY

# Source: google/rpc/code.proto, "HTTP Mapping".
_HTTP_STATUSES = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
# nginx's for a caller who has left; nobody sees it.
_LEFT = 499

_JSON = "application/json"
# Of HTTP and of gRPC, for the connection that they come over; and what would have to be bytes.
_OF_THE_CONNECTION = re.compile(
    r"(accept|connection|content|expect|grpc|host|inference|keep-alive|sec|te|trailer|transfer|upgrade|user-agent)(-.*)?"
    r"|.*-bin|.*[^a-z0-9_.-].*"
)
# gRPC takes 8 KiB, of which some are its own. Source: grpc_types.h, GRPC_ARG_MAX_METADATA_SIZE, and RFC 9113, 6.5.2.
_MOST_METADATA_BYTES = 6 * 1024
# Those at most, with a call's id and caller, where a server is set to take less.
_OWN_METADATA_BYTES = 768
_ENTRY_BYTES = 32
_WHO = "authorization"
# More takes milliseconds to read or to write as JSON, as 200 detections do.
_QUICK_BYTES = 8 * 1024
# As much as may wait in a connection's buffers besides what they hold at most.
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Reply:
    """What goes back.

    Attributes:
        pieces: Its body, in order.
        status: Of HTTP.
        media_type: Of the body.
        headers: Besides.
    """

    pieces: Sequence[bytes]
    status: int = HTTPStatus.OK
    media_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of the body."""
        return sum(map(len, self.pieces))


class HttpContext:
    """What servicers ask of whoever calls: see `rpc.calls.Context`. HTTP has no deadlines of its own.

    Args:
        request: The caller's.
        max_metadata_bytes: What may come beside a call over gRPC.

    Attributes:
        timeout_seconds: Of the request from its arrival on, where something in it says so.
    """

    def __init__(self, request: Request, max_metadata_bytes: int) -> None:
        self._request = request
        self._most_metadata_bytes = min(_MOST_METADATA_BYTES, max_metadata_bytes - _OWN_METADATA_BYTES)
        self._arrived = time.monotonic()
        self.timeout_seconds: float | None = None

    def peer(self) -> str:
        """The caller's address."""
        client = self._request.client
        return f"http:{client.host}:{client.port}" if client else "http"

    def time_remaining(self) -> float | None:
        """The seconds that are left of the timeout, 0 or more; None where there is none."""
        if self.timeout_seconds is None:
            return None
        return max(0.0, self._arrived + self.timeout_seconds - time.monotonic())

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """The headers that are not about the connection or the body, as far as a call over gRPC may bring them.

        So a request has the same ones in this process and in a front-end.
        """
        told, left_bytes = [], self._most_metadata_bytes
        # There is room for who it is, whatever else there is.
        for name, value in sorted(self._request.headers.items(), key=lambda entry: entry[0] != _WHO):
            size_bytes = len(name) + len(value) + _ENTRY_BYTES
            fits = size_bytes <= left_bytes and value.isascii() and value.isprintable()
            if fits and not _OF_THE_CONNECTION.fullmatch(name):
                told.append((name, value))
                left_bytes -= size_bytes
        return told


Made = TypeVar("Made")
Work: TypeAlias = Callable[[bytes, HttpContext], Awaitable[Reply]]


class Exchanges:
    """Answers HTTP requests as calls.

    Args:
        calls: Bounds and counts them.
        settings: What the body of one may have, how long it may take to come, and what may come beside it.
    """

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls = calls
        self._max_request_bytes = settings.max_request_bytes
        self._arrival_seconds = settings.arrival_timeout_seconds
        self._max_metadata_bytes = settings.max_metadata_bytes

    async def answer(self, request: Request, method: str, work: Work) -> Response:
        """Answers a request, unless its caller leaves before.

        Args:
            request: To answer.
            method: Whose call it is, for metrics and the log.
            work: Makes the reply of the request's body.
        """
        context = HttpContext(request, self._max_metadata_bytes)

        async def with_body(call: Call) -> Reply:
            _check_origin(request)
            content = [await body.read(request, call.holding, self._max_request_bytes, self._arrival_seconds)]
            async with _WhileConnected(request):
                # No name of it here, which would keep the bytes in memory while the call waits.
                reply = await work(content.pop(), context)
            call.holding.hold_reply(reply.size_bytes)
            return reply

        response: Response
        try:
            response = _PacedResponse(await self._calls.answer(method, context, with_body))
        except RetinueError as error:
            response = refusal(error)
        except CallerLeft:
            return Response(status_code=_LEFT)
        response.headers[REQUEST_ID_KEY] = current_call.get().origin.request_id
        return response


async def without_delay(make: Callable[[], Made], size_bytes: int) -> Made:
    """Makes something of so many bytes: of many in a thread, so that it holds up no other call."""
    return await asyncio.to_thread(make) if size_bytes > _QUICK_BYTES else make()


def refusal(error: RetinueError) -> Response:
    """What a caller is told of an error."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.code is Code.UNAUTHENTICATED:
        # Source: RFC 6750, 3.
        headers["WWW-Authenticate"] = "Bearer"
    content = to_json({"error": error.message, "status": error.code.name, "reason": error.reason})
    return Response(content, _HTTP_STATUSES[error.code], headers, _JSON)


def status_of(code: Code) -> int:
    """The status of HTTP for an error's code."""
    return _HTTP_STATUSES[code]


def _check_origin(request: Request) -> None:
    """Refuses what a page of somewhere else has a browser send here, as it may without asking.

    Raises:
        PermissionDeniedError: It is such.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and (not host or origin.partition("://")[2].lower() != host.lower()):
        raise PermissionDeniedError(
            "the request comes from a page of another origin; call from a program, or from a page of this server's "
            "origin.",
            reason="CROSS_ORIGIN",
        )


class _WhileConnected:
    """Cancels what runs inside of it when the caller leaves, and raises `CallerLeft` then."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.ensure_future(self._cancel_when_left())

    async def _cancel_when_left(self) -> None:
        # The body has been read, so nothing else comes.
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise CallerLeft from None


class _PacedResponse(Response):
    """A reply that is handed over no faster than its caller reads, so that its bytes are counted while they are here.

    Args:
        reply: To send.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(status_code=reply.status, headers=reply.headers, media_type=reply.media_type)
        self.headers["content-length"] = str(reply.size_bytes)
        # What is told to be the whole of it is packed only where that is worth it.
        small = reply.size_bytes <= _PIECE_BYTES
        self._pieces = [b"".join(reply.pieces)] if small else [piece for piece in reply.pieces if piece]
        self._rest_bytes = reply.size_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            for start in range(0, len(piece) or 1, _PIECE_BYTES):
                part = piece[start : start + _PIECE_BYTES]
                self._rest_bytes -= len(part)
                # Waits until there is room for it.
                await send({"type": "http.response.body", "body": part, "more_body": self._rest_bytes > 0})
