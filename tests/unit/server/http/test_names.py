"""A server that only its own machine reaches, and the names by which it is called."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from retinue_server.exposure import asks_nobody_of_this_machine
from retinue_server.http.names import OwnNames
from retinue_server.settings import Settings


async def _answers(scope: Scope, receive: Receive, send: Send) -> None:
    response: Response = PlainTextResponse(Request(scope).url.path)
    await response(scope, receive, send)


async def ask(host: str) -> httpx.Response:
    transport = httpx.ASGITransport(OwnNames(_answers))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get("/livez", headers={"host": host})


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
        *("[::1]", "[::1]:8080", "10.0.0.7:8080", ""),
    ],
)
async def test_addresses_and_localhost_are_answered(host: str) -> None:
    assert (await ask(host)).text == "/livez"


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
    ],
)
async def test_a_name_that_may_be_made_to_mean_this_machine_is_refused(host: str) -> None:
    told = await ask(host)
    assert (told.status_code, told.json()["reason"]) == (403, "FOREIGN_HOST")
    assert "--tokens" in told.json()["error"]


def test_it_is_asked_where_nothing_else_keeps_strangers_out() -> None:
    assert asks_nobody_of_this_machine(Settings())
    for settings in (
        Settings(tokens="tokens.json"),
        Settings(tls_client_ca="ca.pem"),
        Settings(insecure=True),
        Settings(host="0.0.0.0", insecure=True),
    ):
        assert not asks_nobody_of_this_machine(settings)
