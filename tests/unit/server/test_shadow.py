"""Copies are bounded, hold what they need, and are never in anybody's way; what becomes of each is counted."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.unit.server.served import served_model

from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.catalog import ServedModel
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    InvalidRequestError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, Classification, ClassifyOptions, DetectOptions, Task, Work
from retinue_server.shadow import Copy, Shadow


class FakeQueue:
    """Answers when it is let, with what it is told.

    Attributes:
        asked: What it was asked.
        answers: What it answers each image with; class 0 where nothing is told.
    """

    refusal = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers: list[Any] = []
        self.options: dict[str, Any] = {}
        self.open = asyncio.Event()
        self.full = False
        self.error: RetinueError | None = None

    def __len__(self) -> int:
        return 0

    def check_room(self, count: int, **_: Any) -> None:
        if self.full:
            raise OverloadedError("no room.", retry_after_seconds=1)

    async def submit(self, items: Sequence[Any], **options: Any) -> list[Outcome[Any]]:
        self.asked += items
        self.options = options
        await self.open.wait()
        if self.error is not None:
            raise self.error
        answers = self.answers or [0] * len(items)
        return [Outcome(one if isinstance(one, RetinueError) else answer(one), 0.0) for one in answers]


def answer(class_id: int) -> Answer:
    return Answer(Classification([class_id], [0.9]), 0, 0, 0, 1)


def outcomes(*class_ids: Any) -> list[Outcome[Answer]]:
    return [Outcome(one if isinstance(one, RetinueError) else answer(one), 0.0) for one in class_ids]


def work(**options: Any) -> Work:
    return Work(None, ClassifyOptions(5, 0, max_picture_bytes=0, **options))  # type: ignore[arg-type]


def copy(count: int = 1, size_bytes: int = 10, make: Callable[[ServedModel], Any] | None = None) -> Copy:
    return Copy(lambda: size_bytes, make or (lambda candidate: [work() for _ in range(count)]))


class Bench:
    """A shadow between two versions of a model."""

    def __init__(self) -> None:
        self.queue = FakeQueue()
        self.metrics = Metrics()
        self.model = served_model("a", 1)
        self.candidate = served_model("a", 2, batcher=self.queue)
        self.shadow = Shadow(self.metrics, most_images=4, most_bytes=100)

    def send(self, copied: Copy, answered: list[Outcome[Answer]]) -> None:
        self.shadow.send(self.model, self.candidate, copied, answered)

    async def done(self) -> None:
        self.queue.open.set()
        async with asyncio.timeout(10):
            while self.shadow._running:
                await asyncio.sleep(0)
        assert [len(model.leases) for model in (self.model, self.candidate)] == [0, 0]

    def counted(self) -> dict[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "retinue_shadow_images_total"
        }

    def agreement(self) -> tuple[float | None, float | None]:
        labels = {"model": "a", "version": "1", "candidate": "2"}
        name = "retinue_shadow_agreement"
        return tuple(
            self.metrics.registry.get_sample_value(f"{name}_{of}", labels) for of in ("count", "sum")
        )  # type: ignore[return-value]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_answers_are_compared_image_by_image_at_the_lowest_priority(bench: Bench) -> None:
    bench.queue.answers = [0, 1, 1]
    bench.send(copy(3), outcomes(0, 0, 1))
    # Nothing is asked while the reply is on its way.
    assert not bench.queue.asked
    await bench.done()
    assert bench.counted() == {"compared": 3}
    assert bench.agreement() == (3, 2)
    assert bench.queue.options["priority"] is Priority.COPY
    assert bench.queue.options["deadline"] is not None


async def test_both_versions_are_held_until_all_is_counted(bench: Bench) -> None:
    bench.send(copy(), outcomes(0))
    assert [len(model.leases) for model in (bench.model, bench.candidate)] == [1, 1]
    await bench.done()
    bench.metrics.forget_model("a", 2)
    assert bench.counted() == {}
    bench.send(copy(), outcomes(0))
    await bench.done()
    assert bench.counted() == {"compared": 1}
    bench.metrics.forget_model("a", 1)
    assert bench.counted() == {}
    assert bench.agreement() == (None, None)


async def test_only_what_has_an_answer_is_compared(bench: Bench) -> None:
    bench.queue.answers = [0]
    bench.send(copy(2), outcomes(ImageError("it is torn."), 0))
    await bench.done()
    assert len(bench.queue.asked) == 1
    assert bench.counted() == {"compared": 1}
    bench.send(copy(1), outcomes(ImageError("it is torn.")))
    assert not bench.shadow._running


async def test_what_has_no_room_is_dropped_and_not_kept(bench: Bench) -> None:
    bench.send(copy(3), outcomes(0, 0, 0))
    bench.send(copy(2), outcomes(0, 0))
    bench.send(copy(1, size_bytes=91), outcomes(0))
    bench.queue.full = True
    bench.send(copy(1), outcomes(0))
    bench.queue.full = False
    heatmap = Answer(Classification([0], [0.9], b"x" * 91), 0, 0, 0, 1)
    bench.send(copy(1), [Outcome(heatmap, 0.0)])
    assert bench.counted() == {"dropped": 5}
    await bench.done()
    assert bench.counted() == {"dropped": 5, "compared": 3}
    # There is room again.
    bench.send(copy(4, size_bytes=100), outcomes(0, 0, 0, 0))
    await bench.done()
    assert bench.counted() == {"dropped": 5, "compared": 7}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadedError("full.", retry_after_seconds=1), "dropped"),
        (UnavailableError("stopping."), "dropped"),
        (DeadlineExpiredError("late."), "dropped"),
        (EngineError("broken."), "failed"),
        (InvalidRequestError("no."), "failed"),
    ],
)
async def test_what_a_candidate_cannot_answer_is_counted_and_troubles_nobody(
    error: RetinueError, outcome: str, bench: Bench
) -> None:
    bench.queue.error = error
    bench.send(copy(2), outcomes(0, 0))
    await bench.done()
    assert bench.counted() == {outcome: 2}
    bench.queue.error, bench.queue.answers = None, [0, error]
    bench.send(copy(2), outcomes(0, 0))
    await bench.done()
    assert bench.counted() == {outcome: 3, "compared": 1}


async def test_a_copy_that_cannot_be_made_has_failed(bench: Bench) -> None:
    def broken(candidate: ServedModel) -> Any:
        raise RuntimeError("a bug")

    bench.send(copy(make=broken), outcomes(0))
    bench.send(copy(make=lambda candidate: [ImageError("regions are missing.")]), outcomes(0))
    await bench.done()
    assert bench.counted() == {"failed": 2}


async def test_a_candidate_that_takes_something_else_has_failed(bench: Bench) -> None:
    bench.candidate = served_model("a", 2, Task.DETECT, batcher=bench.queue)
    bench.send(copy(), outcomes(0))
    assert bench.counted() == {"failed": 1}


async def test_a_server_that_stops_waits_for_no_copies(bench: Bench) -> None:
    bench.send(copy(), outcomes(0))
    await asyncio.sleep(0)
    bench.shadow.close()
    async with asyncio.timeout(10):
        while bench.shadow._running:
            await asyncio.sleep(0)
    assert bench.counted() == {"dropped": 1}


async def test_a_candidate_that_is_served_no_more_waits_for_no_copies(bench: Bench) -> None:
    bench.send(copy(), outcomes(0))
    await asyncio.sleep(0)
    bench.shadow.keep([bench.model, bench.candidate])
    await asyncio.sleep(0)
    assert len(bench.shadow._running) == 1
    bench.shadow.keep([bench.model])
    async with asyncio.timeout(10):
        while bench.shadow._running:
            await asyncio.sleep(0)
    assert bench.counted() == {"dropped": 1}


async def test_a_candidate_is_asked_in_its_own_classes_and_for_no_pictures(bench: Bench) -> None:
    bench.send(copy(make=lambda candidate: [work(heatmap=True)]), outcomes(0))
    await bench.done()
    assert not bench.queue.asked[0].options.heatmap

    bench.model = served_model("a", 1, Task.DETECT, labels=("red", "green"))
    bench.candidate = served_model("a", 2, Task.DETECT, batcher=bench.queue, labels=("blue", "green", "red"))
    options = DetectOptions(0.5, 10, frozenset({0, 1}), 0.5, masks=True, max_picture_bytes=0)
    bench.send(copy(make=lambda candidate: [Work(None, options)]), outcomes(0))  # type: ignore[arg-type]
    await bench.done()
    asked = bench.queue.asked[1].options
    assert (asked.class_ids, asked.masks, asked.score_threshold) == ({1, 2}, False, 0.5)
