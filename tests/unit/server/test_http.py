from dataclasses import dataclass

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.system_packages import unavailable

from retinue_server.errors import StartupError
from retinue_server.http import app as http_app
from retinue_server.http.server import HttpServer


@dataclass
class FakeService:
    """A service in some state."""

    ready: bool
    alive: bool


async def get(
    service: FakeService, path: str, registry: CollectorRegistry | None = None, **headers: str
) -> httpx.Response:
    app = http_app.build(service, registry or CollectorRegistry())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("ready", "alive", "readyz", "livez"),
    [
        (True, True, 200, 200),
        # Loading or draining: waiting helps.
        (False, True, 503, 200),
        # The engine has failed: only a restart does.
        (False, False, 503, 503),
    ],
)
async def test_health_says_whether_to_send_requests_and_whether_to_restart(
    ready: bool, alive: bool, readyz: int, livez: int
) -> None:
    service = FakeService(ready, alive)
    assert (await get(service, "/readyz")).status_code == readyz
    assert (await get(service, "/livez")).status_code == livez


async def test_metrics_are_those_of_the_registry() -> None:
    registry = CollectorRegistry()
    Counter("pictures_seen", "Pictures seen.", registry=registry).inc(3)
    response = await get(FakeService(True, True), "/metrics", registry)
    assert "pictures_seen_total 3.0" in response.text
    assert response.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.parametrize("version", ["1.x", "..", "9" * 5000, "1.0.0;version=-"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
async def test_whoever_wants_metrics_of_a_version_that_is_none_has_them_all_the_same(
    kind: str, version: str
) -> None:
    registry = CollectorRegistry()
    Counter("pictures_seen", "Pictures seen.", registry=registry).inc(3)
    service = FakeService(True, True)
    response = await get(service, "/metrics", registry, accept=f"{kind};version={version}")
    assert response.status_code == 200
    assert "pictures_seen_total 3.0" in response.text


async def test_a_port_in_use_is_one_sentence() -> None:
    app = http_app.build(FakeService(True, True), CollectorRegistry())  # type: ignore[arg-type]
    first = HttpServer(app, "127.0.0.1", 0)
    first.start()
    # It listens a moment later.
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=8)) as client:
        response = await client.get(f"http://127.0.0.1:{first.port}/livez")
    assert response.text == "alive\n"
    with pytest.raises(
        StartupError, match=f"cannot listen on 127.0.0.1:{first.port}: Address already in use"
    ):
        HttpServer(app, "127.0.0.1", first.port)
    await first.stop()
    HttpServer(app, "127.0.0.1", first.port)._socket.close()


async def test_a_server_may_listen_on_ipv6() -> None:
    app = http_app.build(FakeService(True, True), CollectorRegistry())  # type: ignore[arg-type]
    try:
        server = HttpServer(app, "::1", 0)
    except StartupError as error:
        unavailable(f"this machine has no IPv6: {error.message}")
    server.start()
    await server.stop()
