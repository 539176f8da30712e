"""The page's files over HTTP: who gets them, with which headers, and that nothing else is in reach."""

import gzip
from typing import Any

import httpx
import pytest

from retinue_server.errors import UnauthenticatedError
from retinue_server.http import app as http_app
from retinue_server.http.page import FOLDER
from retinue_server.metrics import Metrics

_MOST_BYTES = 200_000
_EXAMPLES = FOLDER.parents[3] / "examples"


async def ask(path: str, method: str = "GET", *, page: bool = True, **headers: str) -> httpx.Response:
    """A request of an application that lets nobody in without a token."""

    def refuse(_path: str, _headers: list[tuple[str, str]]) -> None:
        raise UnauthenticatedError("the call needs a token.")

    service: Any = None
    facts = (lambda: {"grpc_port": 8001}) if page else None
    app = http_app.build(service, Metrics().registry, check=refuse, page=facts)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize("path", ["/", "/ui"])
async def test_browsers_are_led_to_the_page(path: str) -> None:
    response = await ask(path, accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (response.status_code, response.headers["location"]) == (302, "ui/")


async def test_the_page_is_for_whoever_has_no_token_yet_and_nothing_else_is() -> None:
    response = await ask("/ui/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Retinue" in response.text
    assert (await ask("/ui/server.json")).json() == {"grpc_port": 8001}
    for path in ("/", "/metrics", "/ui/nothing.js", "/v1/models"):
        assert (await ask(path)).status_code == 401
    assert (await ask("/ui/", "POST")).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/..%2fapp.py", "/ui//etc/passwd", "/ui/page/index.html"],
)
async def test_no_path_leads_out_of_the_page(path: str) -> None:
    assert (await ask(path)).status_code == 401


async def test_every_file_says_what_browsers_may_do_with_it() -> None:
    for file in FOLDER.iterdir():
        headers = (await ask(f"/ui/{file.name}")).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "camera=(self)" in headers["permissions-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_has_not_changed_is_not_sent_again() -> None:
    first = await ask("/ui/style.css", **{"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    again = await ask(
        "/ui/style.css", **{"accept-encoding": "gzip", "if-none-match": f'"other", {first.headers["etag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    # What is packed is another representation.
    plain = await ask("/ui/style.css", **{"accept-encoding": "identity"})
    assert plain.headers["etag"] != first.headers["etag"]
    assert plain.content == (FOLDER / "style.css").read_bytes()


async def test_without_the_page_browsers_get_what_programs_get() -> None:
    for path in ("/", "/ui/"):
        assert (await ask(path, page=False, accept="text/html")).status_code == 401


def test_all_of_it_is_small() -> None:
    assert sum(len(gzip.compress(file.read_bytes())) for file in FOLDER.iterdir()) < _MOST_BYTES


@pytest.mark.parametrize("name", ["cat.jpg", "scene.jpg"])
def test_its_examples_are_the_repositorys(name: str) -> None:
    assert (FOLDER / name).read_bytes() == (_EXAMPLES / name).read_bytes()


def test_nothing_in_it_names_another_host_or_reads_texts_as_html() -> None:
    for file in FOLDER.iterdir():
        if file.suffix in (".js", ".html", ".css"):
            text = (
                file.read_text(encoding="utf-8")
                .replace("http://www.w3.org/", "")
                .replace("http://localhost", "")
            )
            for forbidden in (
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "style=",
            ):
                assert forbidden not in text, file.name
