"""HTTP/2 by hand, for callers that no gRPC library would let anybody be."""

import socket
import struct
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS = 4
_PIECE_BYTES = 16_384
_FIRST_WINDOW_BYTES = 65_535
_RST_STREAM, _PING, _GOAWAY, _WINDOW_UPDATE = 3, 6, 7, 8
_ACK = _END_STREAM = 1
_INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame. Source: RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """A header field, neither indexed nor compressed. Source: RFC 7541, section 6.2.2."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def call_headers(path: str, packing: str = "") -> bytes:
    """The block of headers that begins a call."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    if packing:
        fields.append(("grpc-encoding", packing))
    return b"".join(header(name, value) for name, value in fields)


class Call:
    """A connection with one call on it, which sends no more than the server grants.

    Args:
        address: host:port.
        path: Of the method.
        packing: How its messages say that they are packed.
    """

    def __init__(self, address: str, path: str, packing: str = "") -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._socket.sendall(
            PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, call_headers(path, packing))
        )
        self._granted = {0: _FIRST_WINDOW_BYTES, 1: _FIRST_WINDOW_BYTES}
        self._initial = _FIRST_WINDOW_BYTES

    def send(self, message: bytes) -> bool:
        """Sends bytes of a message; returns whether the server took all of them."""
        view = memoryview(message)
        try:
            while view:
                granted = min(*self._granted.values(), _PIECE_BYTES)
                if granted <= 0:
                    if not self._listen():
                        return False
                    continue
                piece = view[:granted]
                self._socket.sendall(frame(DATA, 0, 1, bytes(piece)))
                view = view[granted:]
                for stream in self._granted:
                    self._granted[stream] -= len(piece)
        except OSError:
            return False
        return True

    def ended(self) -> bool:
        """Waits until the server ends the call or the connection."""
        with suppress(OSError):
            while self._listen():
                pass
            return True
        return False

    def is_cut_off_for_pings(self) -> bool:
        """Asks again and again whether the server is there; returns whether it had enough of that."""
        said = b""
        with suppress(OSError):
            while True:
                self._socket.sendall(frame(_PING, 0, 0, bytes(8)))
                said += self._socket.recv(1 << 16)
                if b"too_many_pings" in said:
                    return True
        return False

    def linger(self, option: bytes) -> None:
        """How it hangs up, as SO_LINGER has it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self) -> bool:
        """Reads one frame; returns whether the call goes on."""
        head = self._read(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        payload = self._read(length)
        if kind == _WINDOW_UPDATE:
            self._granted[stream] += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & _ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == _INITIAL_WINDOW:
                    self._granted[1] += value - self._initial
                    self._initial = value
            self._socket.sendall(frame(SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(frame(_PING, _ACK, 0, payload))
        return not (kind in (_RST_STREAM, _GOAWAY) or (kind == HEADERS and flags & _END_STREAM))

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            piece = self._socket.recv(size - len(read))
            if not piece:
                raise ConnectionError("the server has hung up")
            read += piece
        return read
