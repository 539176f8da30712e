"""The engine's process gives its front-ends each catalog, and waits for them as long as they live."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.server.served import served_model
from tests.unit.workers.pairs import layout_of

from retinue_server import front_ends
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.errors import UnavailableError
from retinue_server.front_end_process import Given
from retinue_server.front_ends import FrontEnds
from retinue_server.metrics import Metrics
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.settings import Settings
from retinue_server.tally import Statistics
from retinue_server.workers.counts import ALL_STATISTICS, Counts, Key, unpack_statistics
from retinue_server.workers.serving import Served

_REQUESTS = "retinue_requests", "retinue_requests_total"


class FakeProcess:
    """A front-end that does as a test says."""

    def __init__(self, owner: FrontEnds, tracer: object) -> None:
        self.owner = owner
        self.given: list[Served] = []
        self.models: dict[int, Any] = {}
        self.counts = Counts()
        self.statistics: dict[Key, Statistics] = {}
        self.process = None
        self.failure = ""
        self.obeys = True
        self.listening, self.ready, self.current, self.drained = (asyncio.Event() for _ in range(4))
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, plan: object) -> None:
        asyncio.get_running_loop().call_soon(self.listen)

    def listen(self) -> None:
        self.listening.set()
        self.owner.note_listening(self)  # type: ignore[arg-type]

    def hold(self, given: Given) -> None:
        pass

    def give(self, given: Given) -> None:
        self.current.clear()
        self.given.append(Served.unpack(given.told))
        if self.obeys:
            self.take()

    def take(self) -> None:
        self.ready.set()
        self.current.set()

    async def gone(self) -> int:
        code = await asyncio.shield(self.ended)
        self.current.set()
        return code

    def kill(self) -> None:
        if not self.ended.done():
            self.ended.set_result(-9)

    def send(self, *_: object) -> None:
        pass

    async def answered(self) -> None:
        pass


class NoControl:
    async def answer(self, method: str, request: bytes) -> bytes:
        return method.encode()


class Bench:
    """Two front-ends that have started.

    Attributes:
        front_ends: What owns them.
    """

    def __init__(self) -> None:
        provider = Provider(CPU, "cpu", "", ((CPU, {}),))
        settings = Settings(workers=2, grpc_port=0, model_control="explicit")
        self.engine = Engine(1)
        self.front_ends = FrontEnds(Metrics(), provider, settings, NoControl())  # type: ignore[arg-type]

    @property
    def processes(self) -> list[Any]:
        return list(self.front_ends._processes.values())

    def model(self, name: str, version: int = 1) -> ServedModel:
        queue: Batcher[Any, Any] = Batcher(None, self.engine, capacity=9, item_seconds=1)  # type: ignore[arg-type]
        return replace(served_model(name, version, batcher=queue), layout=layout_of(8))

    def numbers(self) -> list[list[int]]:
        """Those of the models that each front-end was told of last."""
        return [[place.number for place in process.given[-1].places] for process in self.processes]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(front_ends, "FrontEndProcess", FakeProcess)
    bench = Bench()
    await bench.front_ends.start()
    yield bench
    bench.front_ends._ending = True
    for process in bench.processes:
        process.kill()
    await bench.front_ends.stop()


async def test_models_that_stay_keep_their_numbers_and_no_other_has_one_that_was_given(bench: Bench) -> None:
    first, second, third = (bench.model("a", version) for version in (1, 2, 3))
    await bench.front_ends.open(Catalog([first, second], {}))
    told = bench.numbers()[0]
    assert bench.numbers() == [told, told]
    await bench.front_ends.publish(Catalog([first], {}))
    (kept,) = bench.numbers()[0]
    await bench.front_ends.publish(Catalog([first, third], {}))
    assert kept in told
    assert kept in bench.numbers()[0]
    (new,) = set(bench.numbers()[0]) - {kept}
    assert new not in told
    states = [served.number for served in bench.processes[0].given]
    assert states == sorted(set(states))


async def test_publishing_ends_when_every_front_end_has_the_models(bench: Bench) -> None:
    await bench.front_ends.open(Catalog([bench.model("a")], {}))
    for process in bench.processes:
        process.obeys = False
    publishing = asyncio.ensure_future(bench.front_ends.publish(Catalog([], {})))
    await bench.until(lambda: all(len(process.given) == 2 for process in bench.processes))
    for process in bench.processes:
        await asyncio.sleep(0.01)
        assert not publishing.done()
        process.take()
    await publishing


async def test_a_front_end_that_dies_meanwhile_is_not_waited_for_and_another_has_the_new_models(
    bench: Bench,
) -> None:
    await bench.front_ends.open(Catalog([bench.model("a")], {}))
    victim = bench.processes[0]
    victim.obeys = False
    publishing = asyncio.ensure_future(bench.front_ends.publish(Catalog([], {})))
    await bench.until(lambda: len(victim.given) == 2)
    victim.kill()
    await publishing
    await bench.until(lambda: len(bench.processes) == 2 and all(one.given for one in bench.processes))
    assert bench.numbers() == [[], []]


async def test_a_front_end_that_stays_behind_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_ends, "_LONGEST_BEHIND_SECONDS", 0.05)
    await bench.front_ends.open(Catalog([bench.model("a")], {}))
    behind, other = bench.processes
    behind.obeys = False
    await bench.front_ends.publish(Catalog([], {}))
    assert behind.ended.done()
    assert not other.ended.done()


async def test_what_was_counted_of_a_model_that_is_gone_is_dropped(bench: Bench) -> None:
    gone, stays = (
        (*_REQUESTS, (("code", "OK"), ("model", "a"), ("version", version))) for version in ("1", "2")
    )
    compared = "retinue_shadow_images", "retinue_shadow_images_total", (("candidate", "1"), ("model", "a"))
    counts = [*(process.counts for process in bench.processes), bench.front_ends._counts._lost_counts]
    for one in counts:
        one.update({gone: 1.0, stays: 2.0, compared: 3.0})
    bench.front_ends.forget_model("a", 1)
    assert counts == [{stays: 2.0}] * 3


async def test_what_each_front_end_has_counted_of_a_model_adds_up_and_outlives_it(bench: Bench) -> None:
    await bench.front_ends.open(Catalog([], {}))

    async def count() -> None:
        pass

    for number, process in enumerate(bench.processes):
        process.count = count
        process.statistics = {
            ("a", version): Statistics(
                (1, 0.5), (0, 0.0), 2, 10.0 + number, {"queue": (2, 0.5)}, {2: (1, 0.5)}
            )
            for version in (1, 2)
        }
    bench.front_ends.forget_model("a", 2)
    both = {("a", 1): Statistics((2, 1.0), (0, 0.0), 4, 11.0, {"queue": (4, 1.0)}, {2: (2, 1.0)})}
    assert unpack_statistics(await bench.front_ends.answer(ALL_STATISTICS, b"")) == both
    first = bench.processes[0]
    first.kill()
    await bench.until(lambda: first not in bench.processes)
    assert unpack_statistics(await bench.front_ends.answer(ALL_STATISTICS, b"")) == both


async def test_calls_that_control_models_wait_until_the_first_ones_are_served(bench: Bench) -> None:
    with pytest.raises(UnavailableError) as refused:
        await bench.front_ends.answer("RepositoryModelLoad", b"")
    assert refused.value.reason == "LOADING"
    await bench.front_ends.open(Catalog([], {}))
    assert await bench.front_ends.answer("RepositoryModelLoad", b"") == b"RepositoryModelLoad"
