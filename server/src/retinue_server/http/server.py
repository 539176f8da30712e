"""Runs the HTTP endpoints beside gRPC."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from retinue_server.connections import ConnectionLimits
from retinue_server.errors import StartupError
from retinue_server.tls import IdentityFiles

_log = structlog.get_logger(__name__)

_BACKLOG = 128
_CLOSE = (b"connection", b"close")


class _Connection(H11Protocol):
    """Uvicorn's, closed where the caller holds it without sending a request or reading the reply, or for too long."""

    _sending: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _began = 0.0

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began = self.loop.time()
        self._expect()
        if len(self.connections) > self._limits.most:
            self._make_room()

    def handle_events(self) -> None:
        super().handle_events()
        age_seconds, cycle = self._limits.age_seconds, self.cycle
        is_old = age_seconds and self.loop.time() > self._began + age_seconds
        if is_old and cycle is not None and not cycle.response_started:
            # As if the caller had asked to, who is told so by the reply and connects again.
            cycle.scope["headers"] = [*cycle.scope["headers"], _CLOSE]

    def send_400_response(self, msg: str) -> None:
        """Replies to what is no HTTP, unless the request has its reply; its endpoint, if it was asked, says no more."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        super().send_400_response(msg)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(self._limits.arrival_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_reading()
        self._stop_sending()

    @property
    def _is_idle(self) -> bool:
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _make_room(self) -> None:
        """Closes the oldest connection that has no request, or this one: so whoever asks for health is heard."""
        idle = [one for one in self.connections if isinstance(one, _Connection) and one._is_idle]
        min(idle, key=lambda one: one._began).transport.abort()

    def _expect(self) -> None:
        """Gives the caller some time where what comes next is of no call."""
        begins = self.conn.their_state is h11.IDLE
        has_its_reply = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not begins and not has_its_reply:
            self._stop_sending()
        elif self._sending is None:
            self._sending = self.loop.call_later(self._limits.arrival_seconds, self.transport.abort)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def _with_bounded_heads(app: ASGIApp, max_bytes: int) -> ASGIApp:
    """The application, asked only what has a head of so many bytes.

    The parser's own limit is for heads that are not complete yet, and several times as much may come in one piece.
    """
    refusal = JSONResponse(
        {
            "error": f"the head of the request has more than {max_bytes} bytes; send less beside it.",
            "status": "INVALID_ARGUMENT",
            "reason": "HEAD_TOO_LARGE",
        },
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        headers={"connection": "close"},
    )

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        await (app if size <= max_bytes else refusal)(scope, receive, send)

    return bounded


def _is_news(record: logging.LogRecord) -> bool:
    """Not that nothing was cut off: callers who keep a connection open and do not listen are none's fault.

    With TLS, the end of a connection waits for them.
    """
    return not (str(record.msg).startswith("Cancel %s running task") and record.args == (0,))


class _QuietServer(uvicorn.Server):
    """Uvicorn, leaving signals to the process that runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application on the running event loop.

    Args:
        app: The endpoints.
        host: Address to listen on.
        port: Port, 0 for a free one.
        identity: Who the server is to callers; None speaks to them without encryption.
        limits: What connections are allowed.

    Attributes:
        port: The port it listens on.
    """

    def __init__(
        self,
        app: Starlette,
        host: str,
        port: int,
        identity: IdentityFiles | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        limits = limits or ConnectionLimits()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # Connections have what the socket has that they come from.
            limits.watch(self._socket)
            # Two sockets may be bound to one port before either listens.
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise StartupError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose others with --http-port and --host."
            ) from error
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            _with_bounded_heads(app, limits.head_bytes),
            http=partial(_Connection, limits=limits),  # type: ignore[arg-type]
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=limits.idle_seconds,
            ws="none",
            log_config=None,
            access_log=False,
            # Whoever calls may write into those headers what they like, and be another caller each time.
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        config.load()
        # Its own options name files, which it would read once.
        config.ssl = identity.following_context() if identity else None
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to answer."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        self._task.add_done_callback(_report_failure)

    async def stop(self) -> None:
        """Finishes what is in flight and closes the port."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("http_failed", exc_info=error)
