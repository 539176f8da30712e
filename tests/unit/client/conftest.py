"""Fakes of a Retinue server, the two clients that talk to one, and the command, for the tests of this folder."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from tests.unit.client.fake_server import MODEL_OF_TASK, Failure, FakeServer, FakeService, Health, listen
from typer.testing import CliRunner

from retinue_client import AsyncClient, Client, Retries
from retinue_client.cli._app import app


@pytest.fixture
def start_server() -> Iterator[Callable[..., FakeServer]]:
    """Starts servers, at HOST or HOST:PORT."""
    started: list[FakeServer] = []

    def start(where: str = "localhost") -> FakeServer:
        service, checks = FakeService(), Health()
        host, _, port = where.partition(":")
        running, found = listen(service, checks, f"{host}:{port or 0}")
        started.append(FakeServer(service, f"{host}:{found}", running, checks))
        return started[-1]

    yield start
    for fake in started:
        if fake.service.hold is not None:
            fake.service.hold.set()
        fake.stop()


@pytest.fixture
def server(start_server: Callable[..., FakeServer]) -> FakeServer:
    return start_server()


@pytest.fixture
def failure() -> type[Failure]:
    return Failure


class Asker:
    """Calls a method of `Client` or, in an event loop of its own, of `AsyncClient`, which see each failure."""

    def __init__(self, address: str, asynchronous: bool) -> None:
        self.address = address
        self.asynchronous = asynchronous

    def __call__(self, method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        settings = {"retries": Retries.none(), **(client or {})}
        if not self.asynchronous:
            with Client(self.address, **settings) as plain:
                return getattr(plain, method)(*args, **kwargs)

        async def call() -> Any:
            async with AsyncClient(self.address, **settings) as other:
                return await getattr(other, method)(*args, **kwargs)

        return asyncio.run(call())


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, server: FakeServer) -> Asker:
    return Asker(server.address, request.param == "async")


@pytest.fixture
def score(server, monkeypatch, tmp_path):
    """Scores a folder with the fake; the rest of the command line is as given."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)

    def run(folder, *arguments, task="classify", out=tmp_path / "results.parquet"):
        command = ["score", folder, "--task", task, "--model", MODEL_OF_TASK[task], "--out", out, *arguments]
        return CliRunner().invoke(app, [str(argument) for argument in command])

    return run


@pytest.fixture
def folder(tmp_path):
    """100 files whose content is their name."""
    made = tmp_path / "images"
    for index in range(100):
        path = made / f"{index % 7}" / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return made


@pytest.fixture
def retinue(server, monkeypatch):
    """Runs a command line against the fake."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)

    def run(*arguments, **options):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture
def photos(tmp_path):
    """Three files: two that are answered, one that is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 48), colour).save(folder / name)
    (folder / "bad.png").write_bytes(b"bad")
    return folder
