"""Calls of a server that has tokens: who is answered, how many at once, and what is counted."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from tests.unit.server.test_access import Clock, bearer
from tests.unit.server.test_tokens import SECRET, ann, written

from retinue_server.errors import OverloadedError, PermissionDeniedError, RetinueError, UnauthenticatedError
from retinue_server.http import app as http_app
from retinue_server.metrics import Metrics
from retinue_server.rpc.access import Access
from retinue_server.rpc.calls import Calls, caller_of
from retinue_server.settings import Settings
from retinue_server.tokens import TokenFile


class Bench:
    """Calls, of which each ends when it is let."""

    def __init__(self, folder: Path, *entries: dict[str, Any], clock: Clock | None = None, **settings: Any):
        self.metrics = Metrics()
        access = Access(TokenFile(written(folder, *entries)), clock=clock or Clock())
        self.calls = Calls(self.metrics, Settings(**settings), access)
        self.end = asyncio.Event()

    def begin(self, method: str = "Classify", secret: str = SECRET) -> "asyncio.Task[str]":
        context: Any = SimpleNamespace(
            invocation_metadata=lambda: bearer(secret), time_remaining=lambda: None, peer=lambda: "a peer"
        )

        async def work(call: Any) -> str:
            await self.end.wait()
            return "answered"

        return asyncio.ensure_future(self.calls.answer(method, context, work))

    async def refusal(self, kind: type[RetinueError], **how: str) -> RetinueError:
        with pytest.raises(kind) as raised:
            await self.begin(**how)
        return raised.value

    def lines(self) -> list[str]:
        return generate_latest(self.metrics.registry).decode().splitlines()


async def test_calls_at_once_are_those_whose_replies_are_not_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ann(max_concurrent_requests=2))
    running = [bench.begin(), bench.begin()]
    await asyncio.sleep(0)
    error = await bench.refusal(OverloadedError)
    assert error.reason == "TOKEN_TOO_MANY_CALLS"
    bench.end.set()
    assert await asyncio.gather(*running) == ["answered"] * 2
    await asyncio.sleep(0)
    assert await bench.begin() == "answered"
    assert 'retinue_token_requests_total{code="OK",token="ann"} 3.0' in bench.lines()
    assert 'retinue_token_requests_total{code="RESOURCE_EXHAUSTED",token="ann"} 1.0' in bench.lines()


async def test_a_call_that_the_server_has_no_room_for_costs_the_caller_nothing(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, ann(requests_per_second=0.001, max_concurrent_requests=1), max_concurrent_requests=1
    )
    other = Bench(tmp_path, ann())
    bench.calls._running.add(other)  # type: ignore[arg-type]
    assert (await bench.refusal(OverloadedError)).reason == "TOO_MANY_CALLS"
    bench.calls._running.clear()
    bench.end.set()
    assert await bench.begin() == "answered"


async def test_a_stranger_is_told_nothing_of_how_busy_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ann(max_concurrent_requests=1))
    running = bench.begin()
    await asyncio.sleep(0)
    await bench.refusal(UnauthenticatedError, secret="unknown")
    await bench.refusal(PermissionDeniedError, method="RepositoryModelLoad")
    bench.end.set()
    await running
    page = "\n".join(bench.lines())
    assert 'retinue_requests_total{code="UNAUTHENTICATED",method="Classify",model="",version=""} 1.0' in page
    assert SECRET not in page
    assert "unknown" not in page


def test_what_a_stranger_calls_is_no_label(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ann())
    for method in ("Classify", "made up", "more made up"):
        with pytest.raises(UnauthenticatedError):
            bench.calls.check(method, [])
    page = "\n".join(bench.lines())
    assert 'method="other",model="",version=""} 2.0' in page
    assert "made up" not in page


async def test_the_connections_of_a_token_have_the_turns_of_one_caller(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ann())
    callers = []
    for peer in ("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:2"):
        context: Any = SimpleNamespace(invocation_metadata=lambda: bearer(SECRET), peer=lambda: peer)  # noqa: B023

        async def work(call: Any) -> None:
            callers.append(caller_of(context))  # noqa: B023

        await bench.calls.answer("Classify", context, work)
    assert callers == ["token:ann"] * 2


async def test_pages_need_a_token_and_probes_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ann(), ann("watcher", name="prometheus", scopes=["observe"]))
    service: Any = SimpleNamespace(alive=True, ready=True)
    app = http_app.build(service, bench.metrics.registry, check=bench.calls.check)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:

        async def status(path: str, secret: str = "") -> int:
            headers = {"Authorization": f"Bearer {secret}"} if secret else {}
            return (await client.get(path, headers=headers)).status_code

        assert [await status(path) for path in ("/livez", "/readyz")] == [200, 200]
        for path in ("/", "/metrics", "/nowhere", "/livez/", "/v1/models"):
            assert await status(path) == 401
        assert [await status(path, SECRET) for path in ("/", "/metrics", "/nowhere")] == [403, 403, 404]
        assert [await status(path, "watcher") for path in ("/", "/metrics", "/nowhere")] == [200, 200, 404]
        told = await client.get("/metrics")
        assert told.headers["www-authenticate"] == "Bearer"
        assert told.json()["reason"] == "UNAUTHENTICATED"
