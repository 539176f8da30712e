"""The names by which a server is called."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from retinue_server.exposure import own_names
from retinue_server.http.names import OwnNames
from retinue_server.settings import Settings


async def _answers(scope: Scope, receive: Receive, send: Send) -> None:
    response: Response = PlainTextResponse(Request(scope).url.path)
    await response(scope, receive, send)


async def ask(host: str, path: str = "/v2", names: frozenset[str] = frozenset()) -> httpx.Response:
    transport = httpx.ASGITransport(OwnNames(_answers, names))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path, headers={"host": host})


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:8080",
            "LocalHost:1",
            "retinue.localhost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
        ),
        *("[::1]", "[::1]:8080", "10.0.0.7:8080", "", "localhost.", "a.localhost."),
    ],
)
async def test_addresses_and_localhost_are_answered(host: str) -> None:
    assert (await ask(host)).text == "/v2"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "elsewhere.example",
            "elsewhere.example:8080",
            "127.0.0.1.elsewhere.example",
            "localhost.elsewhere.example",
        ),
        *("notlocalhost", "[::1", "[elsewhere]", "127.0.0.1@elsewhere.example", ":8080", "127.1"),
        *(
            "localhost/.evil",
            "evil@localhost",
            "localhost#evil",
            "local\thost",
            "localhost:80:evil",
            "[::1%evil]",
        ),
    ],
)
async def test_a_name_that_may_be_made_to_mean_this_machine_is_refused(host: str) -> None:
    told = await ask(host)
    assert (told.status_code, told.json()["reason"]) == (403, "FOREIGN_HOST")
    assert "--http-names" in told.json()["error"]


async def test_its_names_are_those_that_it_was_given() -> None:
    names = frozenset({"server", "models.example"})
    for host in ("server:8080", "SERVER", "models.example", "localhost"):
        assert (await ask(host, names=names)).status_code == 200
    for host in ("server.example", "elsewhere.example", "models.example.elsewhere"):
        assert (await ask(host, names=names)).status_code == 403


async def test_whoever_asks_whether_it_lives_may_call_it_as_they_like() -> None:
    for path in ("/livez", "/readyz"):
        assert (await ask("elsewhere.example", path)).text == path


def test_names_matter_where_nothing_else_says_who_may_ask_and_where_they_are_given() -> None:
    assert own_names(Settings()) == frozenset()
    for settings in (
        Settings(tokens="tokens.json"),
        Settings(tls_client_ca="ca.pem"),
        Settings(insecure=True),
        Settings(host="0.0.0.0", insecure=True),
    ):
        assert own_names(settings) is None
    given = {"http_names": "server,Models.example"}
    for settings in (Settings(**given), Settings(host="0.0.0.0", insecure=True, **given)):
        assert own_names(settings) == {"server", "models.example"}
