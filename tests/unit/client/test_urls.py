"""Images that lie elsewhere: read through fsspec, bounded, and failing alone."""

import asyncio
import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from retinue_client import AsyncClient, DeadlineExceededError, ImageError, deadline
from retinue_client import _images as images
from retinue_client._urls import name_of, without_secrets


class _Site(http.server.BaseHTTPRequestHandler):
    """Answers a path with its name; some paths with trouble; and `/held` only when it is let go."""

    def __init__(self, asked: list[str], let_go: threading.Event, *args: object) -> None:
        self.asked, self.let_go = asked, let_go
        super().__init__(*args)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        status = {"/secret.jpg?signature=abc": 403, "/gone.jpg": 404, "/broken.jpg": 500}.get(self.path, 200)
        if self.path == "/held":
            assert self.let_go.wait(30)
        self.send_response(status)
        self.send_header("Content-Length", str(100 if self.path == "/cut.jpg" else len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """A web server; `asked` is what it was asked for, and `let_go` what `/held` waits for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        handler = functools.partial(_Site, self.asked, self.let_go)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.let_go.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/photos/a.jpg", b"photo a")
    yield filesystem
    filesystem.rm("/photos", recursive=True)


def test_images_are_read_from_urls_and_each_that_cannot_be_fails_alone(ask, memory, site):
    outcomes = ask(
        "classify",
        [
            "memory://photos/a.jpg",
            "memory://photos/missing.jpg",
            f"{site.url}/b.jpg",
            f"{site.url}/gone.jpg",
            f"{site.url}/secret.jpg?signature=abc",
            f"{site.url}/broken.jpg",
            f"{site.url}/cut.jpg",
            "http://127.0.0.1:1/c.jpg",
            "nowhere://d.jpg",
            b"the last",
        ],
    )
    assert [getattr(outcome, "reason", None) or outcome.best.label for outcome in outcomes] == [
        "photo a",
        "FILE_NOT_FOUND",
        "/b.jpg",
        "FILE_NOT_FOUND",
        "FILE_FORBIDDEN",
        "FILE_UNREADABLE",
        "FILE_UNREADABLE",
        "FILE_UNREADABLE",
        "FILE_UNREADABLE",
        "the last",
    ]
    assert outcomes[1].source == "memory://photos/missing.jpg"
    assert "its server answered 500" in outcomes[5].message
    assert "Protocol not known: nowhere" in outcomes[8].message


def test_a_web_server_is_asked_once_for_an_image(site):
    assert images.read_file(f"{site.url}/once.jpg") == b"/once.jpg"
    assert site.asked == ["GET /once.jpg"]


@pytest.mark.parametrize("scheme", ["memory", "http"])
def test_what_is_at_a_url_is_bounded(scheme, memory, site, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 6)
    url = "memory://photos/a.jpg" if scheme == "memory" else f"{site.url}/larger"
    with pytest.raises(ImageError) as caught:
        images.read_file(url)
    assert caught.value.reason == "FILE_TOO_LARGE"


@pytest.mark.parametrize("bound", ["the call's", "the client's"])
def test_a_web_server_that_does_not_answer_is_given_up_when_the_time_is_over(ask, site, bound):
    options = {"timeout_seconds": 0.3} if bound == "the call's" else {"client": {"timeout_seconds": 0.3}}
    held, here = ask("classify", [f"{site.url}/held", b"here"], **options)
    assert (held.reason, here.best.label) == ("FILE_UNREADABLE", "here")
    assert "timeout_seconds" in held.message


def test_the_deadline_of_the_code_around_bounds_what_is_read_too(ask, site):
    with deadline(0.3), pytest.raises(DeadlineExceededError):
        ask("classify", f"{site.url}/held")


def test_a_name_with_a_colon_and_a_path_object_are_files_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "a.jpg").write_bytes(b"here")
    assert images.read_file("memory:/a.jpg") == b"here"
    assert images.read_file(Path("memory://a.jpg")) == b"here"


def test_without_fsspec_a_url_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ImageError, match=r"install retinue-client\[fsspec\]") as caught:
        images.read_file("memory://photos/a.jpg")
    assert caught.value.reason == "FILE_UNREADABLE"


async def test_images_that_are_waited_for_take_no_thread_of_the_event_loop(server, site):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with AsyncClient(server.address) as client:
        fetched = [asyncio.create_task(client.classify(f"{site.url}/held")) for _ in range(2)]
        while len(site.asked) < 2:
            await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: "meanwhile") == "meanwhile"
        site.let_go.set()
        assert [result.best.label for result in await asyncio.gather(*fetched)] == ["/held"] * 2


async def test_an_event_loop_goes_on_while_an_image_is_fetched(server, site):
    async with AsyncClient(server.address) as client:
        fetched = asyncio.create_task(client.classify(f"{site.url}/held"))
        assert (await client.classify(b"meanwhile")).best.label == "meanwhile"
        assert not fetched.done()
        site.let_go.set()
        assert (await fetched).best.label == "/held"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:word@host/a.jpg?signature=x#y", "https://host/a.jpg"),
        ("simplecache::s3://key@bucket/a.jpg", "simplecache::s3://bucket/a.jpg"),
        ("InvalidURL: 'https://me:word@host/a?x=y' is none", "InvalidURL: 'https://host/a' is none"),
        ("https://host/a@b.jpg", "https://host/a@b.jpg"),
        ("a.jpg?x#y me@home", "a.jpg?x#y me@home"),
    ],
)
def test_users_and_signatures_of_urls_are_not_shown(text, shown):
    assert without_secrets(text) == shown


def test_urls_that_differ_in_what_is_not_shown_have_different_names():
    one, other = (name_of(f"https://me:{word}@host/a.jpg?x") for word in ("one", "two"))
    assert one != other
    assert one.startswith("https://host/a.jpg (and ")
    assert name_of("s3://bucket/a.jpg") == "s3://bucket/a.jpg"
