"""A name server in the test's process, which says of one name what the test wants it to."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

NAME = "models.test"
_A, _IN, _ANSWER, _SECONDS = 1, 1, 0x8400, 0
# The name of an answer is that at byte 12 of the message: the question's.
_QUESTIONS_NAME = 0xC00C
_HEADER = struct.Struct("!HHHHHH")


class NameServer:
    """Answers questions for the IPv4 addresses of `NAME` over UDP.

    Attributes:
        addresses: What they are, from now on.
        asked: How often they were asked for.
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def target(self, port: int) -> str:
        """What gRPC connects to for servers at that port of the name."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"

    def close(self) -> None:
        """Ends it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            message, caller = self._socket.recvfrom(4096)
            if not message:
                return
            self._socket.sendto(self._answer(message), caller)

    def _answer(self, message: bytes) -> bytes:
        number = _HEADER.unpack_from(message)[0]
        end = message.index(0, _HEADER.size) + 1
        (kind,) = struct.unpack_from("!H", message, end)
        question = message[_HEADER.size : end + 4]
        records = []
        if kind == _A and question.lower().startswith(b"\x06models\x04test"):
            self.asked += 1
            records = [
                struct.pack("!HHHIH", _QUESTIONS_NAME, _A, _IN, _SECONDS, 4) + IPv4Address(address).packed
                for address in self.addresses
            ]
        return _HEADER.pack(number, _ANSWER, 1, len(records), 0, 0) + question + b"".join(records)


@contextmanager
def naming(*addresses: str) -> Iterator[NameServer]:
    """A name server that knows these addresses."""
    server = NameServer(*addresses)
    try:
        yield server
    finally:
        server.close()
