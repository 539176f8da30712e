"""The models of a front-end come and go: what stays is the same, and what goes is let go of when nothing uses it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest
from retinue.v1 import manifest_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.workers.pairs import MANIFEST, layout_of, works

from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Priority
from retinue_server.catalog import Catalog
from retinue_server.front_end_models import FrontEndModels
from retinue_server.results import Task
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameReader, Kind
from retinue_server.workers.link import EngineLink
from retinue_server.workers.serving import Served
from retinue_server.workers.slots import Layout, Place, Places, Row, SharedMemory

_BOXES = Layout(
    4,
    (Row("images", "uint8", (2, 2, 1)),),
    (Row("boxes", "float32", (3, 4)), Row("scores", "float32", (3,)), Row("classes", "int32", (3,))),
    (),
)


def described(name: str, version: int = 1, **manifest: object) -> pb.Model:
    model = pb.Model(name=name, version=version, manifest=MANIFEST)
    model.manifest.MergeFrom(manifest_pb2.ModelManifest(name=name, **manifest))  # type: ignore[arg-type]
    for size in (1, 4):
        model.execution.batches.add(batch_size=size, batch_us=10_000 * size)
    return model


class Bench:
    """A front-end's models, told of as the engine's process would.

    Attributes:
        released: The numbers of those that were let go of.
        forgotten: Whose metrics are gone.
        said: What the engine's process hears of requests.
    """

    def __init__(self, **options: float) -> None:
        self.engine = Engine(1)
        self.engine.start()
        self.memory = SharedMemory.new()
        self.places = Places()
        self.released: list[int] = []
        self.forgotten: list[tuple[str, int]] = []
        self.said: list[tuple[Kind, bytes]] = []
        self.link = EngineLink(lambda data: self.said.extend(FrameReader().feed(data)))
        self.models = FrontEndModels(
            self.memory,
            self.link,
            self.engine,
            forget=lambda *key: self.forgotten.append(key),
            released=self.released.append,
            **options,
        )

    def place(self, layout: Layout | None = None) -> Place:
        place = self.places.new(layout or layout_of(8))
        self.memory.grow(place)
        self.memory.map(place).load.publish(0, 100, dict.fromkeys(Priority, 0.0))
        return place

    def tell(
        self, *models: tuple[pb.Model, Place], pipelines: Sequence[pb.Model] = (), let_go: bool = True
    ) -> Catalog:
        catalog, gone = self.models.take(
            Served(1, [one for one, _ in models], [place for _, place in models], pipelines, {})
        )
        if let_go:
            self.models.let_go(gone)
        return catalog

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]
    bench = Bench()
    yield bench
    bench.engine.stop()
    bench.memory.close()


async def test_what_stays_is_the_same_model_and_what_comes_is_found(bench: Bench) -> None:
    first = described("a"), bench.place()
    before = bench.tell(first)
    after = bench.tell(first, (described("a", 2), bench.place()))
    assert after.get("a", 1) is before.get("a", 1)
    assert after.get("a").version == 2
    assert not bench.released


async def test_a_model_nobody_holds_is_let_go_of_and_forgotten(bench: Bench) -> None:
    place = bench.place()
    bench.tell((described("a"), place))
    assert not bench.tell().serves("a")
    await bench.until(lambda: bench.released)
    assert bench.released == [place.number]
    assert bench.forgotten == [("a", 1)]


async def test_one_that_takes_its_versions_place_keeps_the_counts(bench: Bench) -> None:
    old, new = bench.place(), bench.place()
    before = bench.tell((described("a"), old)).get("a")
    assert bench.tell((described("a"), new)).get("a") is not before
    await bench.until(lambda: bench.released)
    assert bench.released == [old.number]
    assert not bench.forgotten


async def test_a_model_waits_for_the_calls_that_hold_it(bench: Bench) -> None:
    model = bench.tell((described("a"), bench.place())).get("a")
    model.leases.take()
    bench.tell()
    await asyncio.sleep(0.02)
    assert not bench.released
    model.leases.give_back()
    await bench.until(lambda: bench.released)


async def test_a_model_waits_until_the_engine_is_done_with_the_images_of_who_left(bench: Bench) -> None:
    model = bench.tell((described("a"), bench.place())).get("a")
    call = asyncio.ensure_future(
        model.batcher.submit(works(1, 2), caller="a", priority=Priority.NORMAL, deadline=None)
    )
    await bench.until(lambda: bench.said)
    submission = frames.unpack_submission(bench.said[0][1])
    call.cancel()
    await asyncio.wait([call])
    bench.tell()
    await asyncio.sleep(0.02)
    # Its number and its place must stay its own: a batch may be at its images.
    assert not bench.released
    bench.link.take(Kind.ENDED, frames.pack_number(submission.request_id))
    await bench.until(lambda: bench.released)
    assert bench.released == [submission.model]


async def test_a_detecting_pipeline_holds_its_steps_and_its_counts_go_with_it(bench: Bench) -> None:
    detector = described("find", task=manifest_pb2.TASK_DETECT), bench.place(_BOXES)
    classifier = described("numbers"), bench.place()
    steps = [manifest_pb2.PipelineStep(model="find"), manifest_pb2.PipelineStep(model="numbers")]
    pipeline = described("both", task=manifest_pb2.TASK_DETECT, pipeline={"steps": steps})
    catalog = bench.tell(detector, classifier, pipelines=[pipeline])
    both = catalog.for_task(Task.DETECT, "both")
    assert list(both.manifest.labels) == list(MANIFEST.labels)
    both.leases.take()
    assert [len(catalog.get(name).leases) for name in ("both", "find", "numbers")] == [1, 1, 1]
    bench.tell()
    await asyncio.sleep(0.02)
    assert not bench.released
    assert ("both", 1) not in bench.forgotten
    both.leases.give_back()
    await bench.until(lambda: len(bench.released) == 2)
    await bench.until(lambda: len(bench.forgotten) == 3)
