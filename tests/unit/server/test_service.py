import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image
from prometheus_client.samples import Sample
from tests.unit.server.served import served_model

from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.catalog import Catalog
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, ClassifyOptions, Work
from retinue_server.service import VisionService

OPTIONS = ClassifyOptions(1, 0, max_picture_bytes=0)
IMAGE = Work(Image.new("RGB", (1, 1)), OPTIONS)


class FakeBatcher:
    """Gives each work the next of the outcomes it was made with."""

    refusal = None

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.submitted: list[Sequence[Work]] = []

    async def submit(
        self, works: Sequence[Work], *, caller: str, priority: Priority, deadline: float | None
    ) -> list[Outcome[Any]]:
        assert (caller, priority, deadline) == ("me", Priority.LOW, None)
        self.submitted.append(works)
        assert len(works) == len(self.values)
        return [Outcome(value, 0.25) for value in self.values]


def answer(result: Any) -> Answer:
    return Answer(result, 0.1, 0.2, 0.3, 4)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def service(metrics: Metrics) -> VisionService:
    return VisionService(Engine(instances=1), metrics)


async def outcomes_of(
    service: VisionService, batcher: FakeBatcher, images: Sequence[Work | ImageError]
) -> list[Outcome[Answer]]:
    model = served_model("a", batcher=batcher)
    return await service.answer(model, images, caller="me", priority=Priority.LOW, deadline=None)


async def ask(service: VisionService, batcher: FakeBatcher, images: Sequence[Work | ImageError]) -> list[Any]:
    return [outcome.value for outcome in await outcomes_of(service, batcher, images)]


def images_counted(metrics: Metrics) -> dict[str, float]:
    samples: list[Sample] = [sample for family in metrics.registry.collect() for sample in family.samples]
    counted = [sample for sample in samples if sample.name == "retinue_images_total" and sample.value]
    assert {sample.labels["priority"] for sample in counted} <= {"low"}
    received = sum(sample.value for sample in samples if sample.name == "retinue_images_received_total")
    assert received == sum(sample.value for sample in counted)
    return {sample.labels["outcome"]: sample.value for sample in counted}


def test_it_is_ready_between_loading_and_draining(service: VisionService) -> None:
    assert (service.ready, service.alive) == (False, True)
    with pytest.raises(UnavailableError) as loading:
        _ = service.catalog
    assert loading.value.reason == "LOADING"

    catalog = Catalog([served_model("a")], {})
    service.open(catalog)
    assert service.ready
    assert service.catalog is catalog

    service.open(catalog, reachable=lambda: False)
    assert (service.ready, service.alive) == (False, True)
    service.open(catalog)

    service.drain()
    assert (service.ready, service.alive) == (False, True)
    with pytest.raises(UnavailableError) as draining:
        _ = service.catalog
    assert draining.value.reason == "DRAINING"


def test_it_is_neither_ready_nor_alive_when_the_engine_has_failed(metrics: Metrics) -> None:
    engine = Engine(instances=1)
    service = VisionService(engine, metrics)
    service.open(Catalog([served_model("a")], {}))
    engine.healthy = False
    assert (service.ready, service.alive) == (False, False)


async def test_outcomes_come_in_the_order_of_the_images(service: VisionService, metrics: Metrics) -> None:
    first, last, bad = answer("first"), answer("last"), ImageError("empty.")
    batcher = FakeBatcher(first, last)
    assert await ask(service, batcher, [IMAGE, bad, IMAGE]) == [first, bad, last]
    # What could not be opened takes no place in the queue.
    assert len(batcher.submitted[0]) == 2
    assert images_counted(metrics) == {"answered": 2, "failed": 1}


async def test_images_that_could_not_be_opened_are_never_queued(service: VisionService) -> None:
    batcher = FakeBatcher()
    bad = ImageError("empty.")
    assert await ask(service, batcher, [bad, bad]) == [bad, bad]
    assert batcher.submitted == []


async def test_an_image_that_could_not_be_decoded_fails_alone(service: VisionService) -> None:
    good, bad = answer("good"), ImageError("cut off.")
    assert await ask(service, FakeBatcher(good, bad), [IMAGE, IMAGE]) == [good, bad]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(DeadlineExpiredError("too late."), "cancelled"), (UnavailableError("draining."), "refused")],
)
async def test_what_is_no_images_fault_fails_the_request(
    error: RetinueError, outcome: str, service: VisionService, metrics: Metrics
) -> None:
    with pytest.raises(type(error)):
        await ask(service, FakeBatcher(answer("good"), error), [IMAGE, IMAGE])
    assert images_counted(metrics) == {outcome: 2}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadedError("full.", retry_after_seconds=1), "refused"),
        (UnavailableError("unloading."), "refused"),
        (asyncio.CancelledError(), "cancelled"),
        (ZeroDivisionError(), "failed"),
    ],
)
async def test_images_that_the_queue_gives_no_outcome_are_counted(
    error: BaseException, outcome: str, service: VisionService, metrics: Metrics
) -> None:
    class Raising:
        async def submit(self, *_: Any, **__: Any) -> list[Outcome[Any]]:
            raise error

    with pytest.raises(type(error)):
        await ask(service, Raising(), [IMAGE, ImageError("empty."), IMAGE])  # type: ignore[arg-type]
    assert images_counted(metrics) == {outcome: 3}


async def test_an_engine_that_failed_on_every_image_fails_the_request(service: VisionService) -> None:
    failed = EngineError("the model failed.")
    with pytest.raises(EngineError):
        await ask(service, FakeBatcher(failed, failed), [IMAGE, IMAGE])


async def test_an_engine_that_failed_on_some_images_leaves_the_others_theirs(service: VisionService) -> None:
    good, failed = answer("good"), EngineError("the model failed.")
    assert await ask(service, FakeBatcher(good, failed), [IMAGE, IMAGE]) == [good, failed]


async def test_the_time_of_each_image_is_told(service: VisionService) -> None:
    batcher = FakeBatcher(answer("good"))
    images = [IMAGE, ImageError("empty.")]
    good, bad = await outcomes_of(service, batcher, images)
    assert (good.queue_seconds, bad.queue_seconds) == (0.25, None)
