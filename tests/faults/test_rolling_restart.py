"""Servers that are restarted one after the other cost a client that knows them all not one call."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.metrics_page import MetricsPage, wait_until
from tests.ports import free_port
from tests.server_process import ServerProcess

from retinue_client import AsyncClient, Classification, Client, ImageError, RetinueError

_CALLERS = 3
_IMAGES = [np.full((8, 8, 3), (0, 0, 255), np.uint8)] * 2


class Replica:
    """A server that has the same ports again each time that it is started."""

    def __init__(self, models: Path, *arguments: str) -> None:
        self._models = models
        ports = ("--grpc-port", str(free_port()), "--http-port", str(free_port()))
        self._arguments = (*ports, *arguments)
        self.start()

    def start(self) -> None:
        """Starts it."""
        self.process = ServerProcess(self._models, *self._arguments)

    def restart(self) -> None:
        """Ends it as an orchestrator does, and starts it again."""
        assert self.process.terminate() == 0
        self.process.close()
        self.start()
        self.process.wait_until_ready()

    def close(self) -> None:
        """Ends it."""
        self.process.close()


@contextmanager
def _replicas(models: Path, *arguments: str) -> Iterator[list[Replica]]:
    with ExitStack() as stack:
        replicas = [Replica(models, *arguments) for _ in range(2)]
        for one in replicas:
            stack.callback(one.close)
        for one in replicas:
            one.process.wait_until_ready()
        yield replicas


class Callers:
    """Some who go on calling until they are told to stop, and what became of their calls.

    Attributes:
        outcomes: How often each outcome came.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.done = threading.Event()

    def note(self, results: list[Classification | ImageError] | RetinueError) -> None:
        """Counts a call."""
        if isinstance(results, RetinueError):
            self.outcomes[repr(results)] += 1
        else:
            self.outcomes[
                "".join(repr(one) if isinstance(one, ImageError) else one.best.label for one in results)
            ] += 1

    def call_from_threads(self, addresses: list[str]) -> None:
        """Calls with `Client`, from several threads."""

        def call(client: Client) -> None:
            while not self.done.is_set():
                try:
                    self.note(client.classify(_IMAGES, model="colour-classifier"))
                except RetinueError as error:
                    self.note(error)

        with Client(addresses, timeout_seconds=30) as client:
            threads = [threading.Thread(target=call, args=(client,)) for _ in range(_CALLERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def call_from_tasks(self, addresses: list[str]) -> None:
        """Calls with `AsyncClient`, from several tasks of one event loop."""

        async def call(client: AsyncClient) -> None:
            while not self.done.is_set():
                try:
                    self.note(await client.classify(_IMAGES, model="colour-classifier"))
                except RetinueError as error:
                    self.note(error)

        async def call_all() -> None:
            async with AsyncClient(addresses, timeout_seconds=30) as client:
                await asyncio.gather(*(call(client) for _ in range(_CALLERS)))

        asyncio.run(call_all())


@contextmanager
def _calling(call: Callable[[Callers, list[str]], None], addresses: list[str]) -> Iterator[Callers]:
    callers = Callers()
    thread = threading.Thread(target=call, args=(callers, addresses))
    thread.start()
    try:
        yield callers
    finally:
        callers.done.set()
        thread.join()


# gRPC balances over IP addresses; names have a channel each, among which the client balances.
@pytest.mark.parametrize(
    ("workers", "host"), [(0, "localhost"), (1, "127.0.0.1")], ids=["one process", "a front-end"]
)
def test_no_call_fails_while_servers_are_restarted_in_turn(
    workers: int, host: str, colour_models: Path
) -> None:
    with _replicas(colour_models, "--workers", str(workers)) as replicas:
        addresses = [one.process.grpc_address.replace("127.0.0.1", host) for one in replicas]
        with (
            _calling(Callers.call_from_threads, addresses) as threads,
            _calling(Callers.call_from_tasks, addresses) as tasks,
        ):
            for one in replicas:
                one.restart()
                wait_until(lambda one=one: _answered(one.process) > 10, "it to be found")  # type: ignore[misc]
        assert set(threads.outcomes) == {"blueblue"}, threads.outcomes
        assert set(tasks.outcomes) == {"blueblue"}, tasks.outcomes
        for one in replicas:
            page = MetricsPage(one.process.http_url)
            assert page.total("retinue_queue_images") == 0
            # Each image of each call that it has answered.
            answered = page.total("retinue_images_total", model="colour-classifier", outcome="answered")
            assert answered == 2 * _answered(one.process)


def _answered(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_requests_total", method="Classify", code="OK")
