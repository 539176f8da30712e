"""Runs the HTTP endpoints beside gRPC."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import h11
import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from retinue_server.errors import StartupError
from retinue_server.tls import IdentityFiles

_log = structlog.get_logger(__name__)

_BACKLOG = 128
# For the head of a request, for what is left of one that has been refused, and for a piece of a reply to be read.
_PATIENCE_SECONDS = 60.0


class _Connection(H11Protocol):
    """Uvicorn's, closed where the caller holds it without sending a request or reading the reply."""

    _sending: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(_PATIENCE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_reading()
        self._stop_sending()

    def _expect(self) -> None:
        """Gives the caller some time where what comes next is of no call."""
        begins = self.conn.their_state is h11.IDLE
        has_its_reply = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not begins and not has_its_reply:
            self._stop_sending()
        elif self._sending is None:
            self._sending = self.loop.call_later(_PATIENCE_SECONDS, self.transport.abort)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


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

    Attributes:
        port: The port it listens on.
    """

    def __init__(self, app: Starlette, host: str, port: int, identity: IdentityFiles | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # Two sockets may be bound to one port before either listens.
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise StartupError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose others with --http-port and --host."
            ) from error
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            log_config=None,
            access_log=False,
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
