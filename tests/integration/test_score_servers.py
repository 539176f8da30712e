"""Scoring with several real servers, which come late, are killed and are started again meanwhile."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import colour_bundles, pictures
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server

from retinue_client import AsyncClient, Classification
from retinue_client._score.account import Account
from retinue_client._score.asker import ServerAsker
from retinue_client._score.remote import RemoteScorer
from retinue_client._score.scorer import ScoreOptions

_LABELS = ("red", "green", "blue")
_IMAGES = [pictures.png(pictures.COLOURS[label]) for label in _LABELS]
_AT_WORK_IMAGES = 30
_TIMEOUT_SECONDS = 60


class Stream:
    """Scores images without end, until it is told to stop; each must have its own answer."""

    def __init__(self, scorer: RemoteScorer) -> None:
        self._scorer = scorer
        self._going_on = True
        self.answered = 0

    async def run(self) -> None:
        """Keeps as many calls going as the scorer can make use of."""
        calls: set[asyncio.Task[None]] = set()
        while self._going_on or calls:
            while self._going_on and len(calls) < self._scorer.calls_at_once:
                calls.add(asyncio.create_task(self._call()))
            done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                call.result()

    def stop(self) -> None:
        """Has it end when all that were asked about are answered."""
        self._going_on = False

    async def _call(self) -> None:
        images = [_IMAGES[index % 3] for index in range(self._scorer.images_per_call)]
        answers = await self._scorer.answers(images)
        assert len(answers) == len(images)
        for index, answer in enumerate(answers):
            assert isinstance(answer, Classification)
            assert answer.best.label == _LABELS[index % 3]
        self.answered += len(answers)


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_images_total", outcome="answered")


async def _until(condition: Callable[[], bool], stream: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not await asyncio.to_thread(condition):
            assert not stream.done(), stream.exception()


async def _until_at_work(server: ServerProcess, stream: "asyncio.Task[None]") -> None:
    goal = await asyncio.to_thread(_answered, server) + _AT_WORK_IMAGES
    await _until(lambda: _answered(server) >= goal, stream)


async def _kill(server: ServerProcess) -> None:
    server.process.kill()
    await asyncio.to_thread(server.wait)


async def _start(models: Path, address: str) -> ServerProcess:
    server = ServerProcess(models, "--grpc-port", address.rpartition(":")[2])
    await asyncio.to_thread(server.wait_until_ready)
    return server


@pytest.mark.slow
async def test_servers_that_come_late_are_killed_and_started_again_cost_no_answer(tmp_path: Path) -> None:
    colour_bundles.classifier(tmp_path)
    with running_server(tmp_path) as first:
        # Its port is known, and it is not there.
        await _kill(first)
        with running_server(tmp_path) as second:
            addresses = [first.grpc_address, second.grpc_address]
            options = ScoreOptions("classify", {"model": "", "version": None})
            scorer = RemoteScorer(
                [ServerAsker(AsyncClient(address), options.task, options.options) for address in addresses],
                options,
                Account(),
            )
            assert (await scorer.find_model()).name == "colour-classifier"
            stream = Stream(scorer)
            running = asyncio.create_task(stream.run())
            started = []
            try:
                await _until_at_work(second, running)
                started.append(await _start(tmp_path, addresses[0]))
                await _until_at_work(started[0], running)
                await _kill(second)
                await _until_at_work(started[0], running)
                await _kill(started[0])
                # Nobody is there for a while.
                started.append(await _start(tmp_path, addresses[1]))
                await _until_at_work(started[1], running)
                started.append(await _start(tmp_path, addresses[0]))
                await _until_at_work(started[2], running)
                stream.stop()
                await running
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await scorer.close()
                for server in started:
                    server.close()
    assert stream.answered > 4 * _AT_WORK_IMAGES
