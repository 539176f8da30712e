"""A server that a test sends bytes to as it likes, over HTTP."""

import socket
from urllib.parse import urlsplit

import httpx

from tests import pictures
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess

_TIMEOUT_SECONDS = 30
CLASSIFY = "/v1/models/colour-classifier:classify"
RED = pictures.png(pictures.RED)


class Target:
    """A server under attack."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        # To load certificates takes longer than most requests.
        self.client = httpx.Client(base_url=server.http_url, timeout=_TIMEOUT_SECONDS, verify=False)
        parts = urlsplit(server.http_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port

    def connect(self, *, receive_bytes: int = 0) -> socket.socket:
        """A connection of its own; with a receive buffer of this size where it is given."""
        made = socket.socket()
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(_TIMEOUT_SECONDS)
        made.connect(self._address)
        return made

    def send(self, data: bytes, *, close: bool = False) -> bytes:
        """Sends bytes, and returns what comes back until a whole reply is there, or the connection ends."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
                if close:
                    connection.shutdown(socket.SHUT_WR)
                return reply(connection)
            except ConnectionError:
                return b""

    def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=content, headers=named)

    def reason(self, path: str, content: bytes, **headers: str) -> str:
        """Why a request is refused."""
        told = self.post(path, content, **headers)
        assert 400 <= told.status_code < 500, told.text
        return str(told.json()["reason"])

    def answers(self) -> bool:
        """Whether a usual request has its answer."""
        told = self.post(f"{CLASSIFY}?top_k=1", RED)
        return (
            told.status_code == 200 and told.json()["outcomes"][0]["result"]["classes"][0]["label"] == "red"
        )

    def counted(self, code: str) -> float:
        """Calls that ended so."""
        return MetricsPage(self.server.http_url).total("retinue_requests_total", code=code)


def reply(connection: socket.socket) -> bytes:
    """What comes back until a whole reply is there, or the connection ends."""
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        length = _length(head)
        if found and length is not None and len(body) >= length:
            return data
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


def head(path: str = CLASSIFY, *lines: str, verb: str = "POST") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{verb} {path} HTTP/1.1", "Host: server", *lines, "", ""]).encode("latin-1")
