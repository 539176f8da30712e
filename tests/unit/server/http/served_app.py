"""The HTTP endpoints with methods that a test gives, without a network."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx

from retinue_server.http import app as http_app
from retinue_server.http.exchange import Exchanges
from retinue_server.metrics import Metrics
from retinue_server.rpc.calls import Calls
from retinue_server.settings import Settings

MOST_IMAGES = 4
Method = Callable[[Any, Any], Awaitable[Any]]


class ServedApp:
    """Endpoints.

    Args:
        settings: Of the server.

    Attributes:
        app: The application.
        methods: What answers, by the RPC's name.
        asked: The requests that `answering` methods got.
    """

    def __init__(self, **settings: Any) -> None:
        self.metrics = Metrics()
        resolved = Settings(**settings)
        exchanges = Exchanges(Calls(self.metrics, resolved), resolved)
        self.methods: dict[str, Method] = {}
        self.asked: list[Any] = []
        service: Any = SimpleNamespace(alive=True, ready=True)
        routes = http_app.calls(exchanges, self.methods, MOST_IMAGES)
        self.app = http_app.build(service, self.metrics.registry, calls=routes)

    def answer(self, method: str, reply: Any) -> None:
        """Has a method reply with a message, or raise an error."""

        async def answer(request: Any, context: Any) -> Any:
            self.asked.append(request)
            if isinstance(reply, BaseException):
                raise reply
            return reply

        self.methods[method] = answer

    async def ask(self, verb: str, path: str, **how: Any) -> httpx.Response:
        """Sends a request, in a task that ends with it."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await asyncio.create_task(client.request(verb, path, **how))

    def counted(self) -> list[tuple[str, str, str, float]]:
        """Of the calls that were counted: method, model, code and how many."""
        return [
            (sample.labels["method"], sample.labels["model"], sample.labels["code"], sample.value)
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "retinue_requests_total"
        ]


class Caller:
    """One request to an application, message by message.

    Args:
        app: The application.
        path: Where to.
        headers: Of the request.

    Attributes:
        status: Of the reply, 0 before there is one.
        body: Of the reply as far as it has come.
        call: Ends when the application has no more to do.
    """

    def __init__(self, app: Any, path: str, headers: dict[str, str] | None = None) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.status = 0
        self.body = b""
        # Clear while the caller does not read.
        self.reads = asyncio.Event()
        self.reads.set()
        sent = {"host": "server"} | (headers or {})
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 1234),
            "server": ("127.0.0.1", 80),
        }
        self.call = asyncio.create_task(app(scope, self._messages.get, self._send))

    async def sends(self, body: bytes, *, more: bool = False) -> None:
        """Sends a piece of the body, and lets the application work."""
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})
        await self.waits()

    async def leaves(self) -> None:
        """Closes the connection."""
        self._messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.call, 5)

    async def waits(self) -> None:
        """Lets the application work until it waits."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
