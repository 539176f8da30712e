"""The open loop's connection, frame by frame."""

import asyncio
import struct
from typing import Any

import pytest
from benchmarks import http2
from benchmarks.http2 import Connection

DATA, HEADERS, RESET, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame written since the last call."""
        rest, self.written = self.written.removeprefix(PREFACE), b""
        found = []
        while rest:
            length = int.from_bytes(rest[:3], "big")
            found.append((rest[3], rest[4], int.from_bytes(rest[5:9], "big"), rest[9 : 9 + length]))
            rest = rest[9 + length :]
        return found


class Peer:
    """A connection, and the server's side of it."""

    def __init__(self, message: bytes) -> None:
        self.ended: list[tuple[int, int]] = []
        self.transport = FakeTransport()
        request = http2.request("host:1", "/a.Service/Method", message, timeout_ms=1500)
        self.connection = Connection(request, lambda number, status: self.ended.append((number, status)))
        self.connection.connection_made(self.transport)
        self.greeting = self.transport.written
        self.transport.frames()

    def sends(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        self.connection.data_received(head + payload)

    def body_bytes(self, stream: int) -> int:
        """How much of that stream's body was sent since the last look at the frames."""
        return sum(
            len(frame[3]) for frame in self.transport.frames() if frame[0] == DATA and frame[2] == stream
        )


def test_it_greets_and_asks_for_headers_without_a_table() -> None:
    greeting = Peer(b"").greeting

    assert greeting.startswith(PREFACE)
    settings = greeting[len(PREFACE) + 9 :]
    assert (1, 0) in list(struct.iter_unpack(">HI", settings[:12]))


def test_a_call_is_headers_and_a_framed_message() -> None:
    peer = Peer(b"hello")

    peer.connection.send(7)

    headers, data = peer.transport.frames()
    assert headers[:3] == (HEADERS, END_HEADERS, 1)
    for text in (
        b"/a.Service/Method",
        b"host:1",
        b"application/grpc",
        b"trailers",
        b"grpc-timeout",
        b"1500m",
    ):
        assert bytes((len(text),)) + text in headers[3]
    assert data == (DATA, END_STREAM, 1, b"\0\0\0\0\x05hello")


def test_each_call_has_the_next_odd_stream() -> None:
    peer = Peer(b"x")

    peer.connection.send(0)
    peer.connection.send(1)

    assert [frame[2] for frame in peer.transport.frames() if frame[0] == HEADERS] == [1, 3]


def test_the_status_ends_the_call_it_belongs_to() -> None:
    peer = Peer(b"x")
    peer.connection.send(10)
    peer.connection.send(11)

    peer.sends(HEADERS, END_HEADERS, 1, b"\x00\x07:status\x03200")
    peer.sends(DATA, 0, 1, b"answer")
    peer.sends(HEADERS, END_HEADERS | END_STREAM, 3, b"@\x0bgrpc-status\x018\x00\x0cgrpc-message\x00")
    peer.sends(HEADERS, END_HEADERS | END_STREAM, 1, b" @\x0bgrpc-status\x010")

    assert peer.ended == [(11, 8), (10, 0)]
    assert peer.connection.unanswered == 0


def test_statuses_of_two_digits_are_read() -> None:
    peer = Peer(b"x")
    peer.connection.send(0)

    peer.sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x0214")

    assert peer.ended == [(0, 14)]


def test_an_answer_without_a_status_is_no_answer() -> None:
    peer = Peer(b"x")
    peer.connection.send(0)

    with pytest.raises(ValueError, match="no grpc-status"):
        peer.sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x07:status\x03200")


def test_frames_may_come_in_pieces() -> None:
    peer = Peer(b"x")
    peer.connection.send(0)
    trailers = b"@\x0bgrpc-status\x010"
    frame = (
        len(trailers).to_bytes(3, "big") + bytes((HEADERS, END_STREAM)) + (1).to_bytes(4, "big") + trailers
    )

    for byte in frame:
        peer.connection.data_received(bytes((byte,)))

    assert peer.ended == [(0, 0)]


def test_no_more_is_sent_than_the_window_allows() -> None:
    peer = Peer(b"x" * 50_000)

    peer.connection.send(0)
    assert peer.body_bytes(1) == 50_005
    peer.connection.send(1)
    assert peer.body_bytes(3) == 65_535 - 50_005
    peer.connection.send(2)
    assert peer.transport.frames() == []
    assert peer.connection.unanswered == 3

    peer.sends(WINDOW_UPDATE, 0, 0, (60_000).to_bytes(4, "big"))

    frames = peer.transport.frames()
    rest = sum(len(frame[3]) for frame in frames if frame[2] == 3)
    assert rest == 50_005 - (65_535 - 50_005)
    assert [frame for frame in frames if frame[2] == 3 and frame[0] == DATA][-1][1] == END_STREAM
    assert sum(len(frame[3]) for frame in frames if frame[0] == DATA) == 60_000
    assert all(len(frame[3]) <= 16_384 for frame in frames)


def test_a_body_larger_than_a_streams_window_is_refused() -> None:
    peer = Peer(b"x" * 70_000)

    with pytest.raises(ValueError, match="more than the window of 65535"):
        peer.connection.send(0)

    larger = Peer(b"x" * 70_000)
    larger.sends(SETTINGS, 0, 0, struct.pack(">HI", 4, 4_194_304))
    larger.connection.send(0)
    assert larger.body_bytes(1) == 65_535


def test_settings_and_pings_are_answered() -> None:
    peer = Peer(b"")

    peer.sends(SETTINGS, 0, 0, b"")
    peer.sends(PING, 0, 0, b"12345678")
    peer.sends(PING, ACK, 0, b"12345678")

    assert peer.transport.frames() == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_a_reset_and_a_lost_connection_end_calls() -> None:
    peer = Peer(b"x" * 60_000)
    for number in range(3):
        peer.connection.send(number)

    peer.sends(RESET, 0, 1, b"\0\0\0\x07")
    assert peer.ended == [(0, http2.RESET)]
    peer.connection.connection_lost(None)

    assert sorted(peer.ended) == [(0, http2.RESET), (1, http2.RESET), (2, http2.RESET)]
    assert peer.connection.unanswered == 0
