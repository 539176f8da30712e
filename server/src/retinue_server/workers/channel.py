"""A connection over which messages go, on the event loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import structlog

from retinue_server.workers.frames import FrameError, FrameReader, Kind

_log = structlog.get_logger(__name__)


class Channel(asyncio.Protocol):
    """One end of a connection.

    Args:
        on_frame: Called with kind and body of each message; may raise FrameError.
        on_lost: Called when the other end is gone, or has said what is no message.
    """

    def __init__(self, on_frame: Callable[[Kind, bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None

    async def open(self, end: socket.socket) -> None:
        """Begins to listen at one end of a socket pair, which is the channel's from now on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def send(self, frame: bytes) -> None:
        """Sends a frame; where the other end is gone, nothing happens."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """Sends what is left, and closes."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        # uvloop's are of no class of asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        try:
            for kind, body in self._reader.feed(data):
                self._on_frame(kind, body)
        except FrameError as error:
            _log.error("message_unreadable", reason=str(error))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio calls it."""
        self._on_lost()
