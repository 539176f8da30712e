"""One connection for unary gRPC calls that are all alike, with as little work a call as Python allows.

At the rates of an overload gRPC's own client takes more than twice as much of the cores, and takes it from the server.
This one sends the same bytes again and again and looks at nothing of an answer but its status.

Source: RFC 9113 (frames and flow control), RFC 7541 (headers), gRPC's doc/PROTOCOL-HTTP2.md.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_FIRST_WINDOW_BYTES = 65_535
_LARGEST_WINDOW_BYTES = 2**31 - 1
_LARGEST_FRAME_BYTES = 16_384
# In HPACK's static table.
_METHOD_POST, _SCHEME_HTTP = b"\x83", b"\x86"
_NAMED_PATH, _NAMED_AUTHORITY, _NAMED_CONTENT_TYPE = b"\x04", b"\x01", b"\x0f\x10"
_STATUS_NAME = b"grpc-status"

RESET = -1
"""Instead of a gRPC status: the stream was reset."""


@dataclass(frozen=True, slots=True)
class Request:
    """What every call sends.

    Attributes:
        headers: A header block without Huffman coding that changes no table.
        body: The framed message.
    """

    headers: bytes
    body: bytes


def request(authority: str, path: str, message: bytes, timeout_ms: int) -> Request:
    """The request of a unary call.

    Args:
        authority: host:port.
        path: /package.Service/Method.
        message: Serialised.
        timeout_ms: The call's deadline.
    """
    headers = b"".join(
        [
            _METHOD_POST + _SCHEME_HTTP,
            _NAMED_PATH + _text(path),
            _NAMED_AUTHORITY + _text(authority),
            _NAMED_CONTENT_TYPE + _text("application/grpc"),
            b"\0" + _text("te") + _text("trailers"),
            b"\0" + _text("grpc-timeout") + _text(f"{timeout_ms}m"),
        ]
    )
    return Request(headers, b"\0" + len(message).to_bytes(4, "big") + message)


class Connection(asyncio.Protocol):
    """Sends calls and tells how each ended.

    Args:
        request: What every call sends.
        on_end: Called with a call's number and its gRPC status, or `RESET`.
    """

    def __init__(self, request: Request, on_end: Callable[[int, int], None]) -> None:
        self._request = request
        self._on_end = on_end
        self._received = bytearray()
        self._calls: dict[int, int] = {}
        # Calls of which nothing is sent yet.
        self._waiting: deque[int] = deque()
        self._next_stream = 1
        # Of the body on that stream; 0 where no call is sent in part.
        self._sent_bytes = 0
        self._window_bytes = _FIRST_WINDOW_BYTES
        self._stream_window_bytes = _FIRST_WINDOW_BYTES

    @property
    def unanswered(self) -> int:
        """Calls that have not ended."""
        return len(self._calls) + len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the server, which may use no header table and send as much as it likes."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW_BYTES)
        more = struct.pack(">I", _LARGEST_WINDOW_BYTES - _FIRST_WINDOW_BYTES)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, _error: Exception | None) -> None:
        """Ends all calls."""
        for number in [*self._calls.values(), *self._waiting]:
            self._on_end(number, RESET)
        self._calls.clear()
        self._waiting.clear()

    def send(self, number: int) -> None:
        """Sends the call of that number, as soon as the server's window allows it."""
        self._waiting.append(number)
        self._flush()

    def close(self) -> None:
        """Ends it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Reads whole frames."""
        received = self._received
        received += data
        start = 0
        while len(received) - start >= 9:
            length = int.from_bytes(received[start : start + 3], "big")
            if len(received) - start < 9 + length:
                break
            kind, flags = received[start + 3], received[start + 4]
            stream = int.from_bytes(received[start + 5 : start + 9], "big")
            if kind != _DATA:
                self._read(kind, flags, stream, bytes(received[start + 9 : start + 9 + length]))
            start += 9 + length
        del received[:start]

    def _read(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _status(payload))
        elif kind == _RESET:
            self._end(stream, RESET)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window_bytes += int.from_bytes(payload, "big")
            self._flush()
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self._stream_window_bytes = value
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._transport.close()

    def _end(self, stream: int, status: int) -> None:
        number = self._calls.pop(stream, None)
        if number is not None:
            self._on_end(number, status)

    def _flush(self) -> None:
        """Sends what the connection's window allows; a stream's own has room for the whole body."""
        body = self._request.body
        if len(body) > self._stream_window_bytes:
            raise ValueError(
                f"{len(body)} bytes are more than the window of {self._stream_window_bytes} that the server gives."
            )
        frames = []
        while (self._waiting or self._sent_bytes) and self._window_bytes:
            if self._sent_bytes == 0:
                self._calls[self._next_stream] = self._waiting.popleft()
                frames.append(_frame(_HEADERS, _END_HEADERS, self._next_stream, self._request.headers))
            size = min(len(body) - self._sent_bytes, self._window_bytes, _LARGEST_FRAME_BYTES)
            piece = body[self._sent_bytes : self._sent_bytes + size]
            self._sent_bytes += size
            self._window_bytes -= size
            complete = self._sent_bytes == len(body)
            frames.append(_frame(_DATA, _END_STREAM if complete else 0, self._next_stream, piece))
            if complete:
                self._sent_bytes = 0
                self._next_stream += 2
        if frames:
            self._transport.write(b"".join(frames))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"".join(
        (len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload)
    )


def _text(text: str) -> bytes:
    """A literal of HPACK, without Huffman coding."""
    if len(text) >= 127:
        raise ValueError(f"{text!r} is too long for a header")
    return bytes((len(text),)) + text.encode()


def _status(trailers: bytes) -> int:
    """The gRPC status in a header block: a server that may use no table writes names and values out."""
    name = trailers.find(_STATUS_NAME)
    if name < 0:
        raise ValueError(f"no {_STATUS_NAME.decode()} in {trailers!r}")
    value = name + len(_STATUS_NAME)
    return int(trailers[value + 1 : value + 1 + trailers[value]])
