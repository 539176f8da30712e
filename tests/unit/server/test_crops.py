import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tests.unit.server.served import served_model

from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.crops import CropClassifier, Question, Turn
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    OverloadedError,
    RetinueError,
)
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, Classification, ClassifyOptions, DetectionList, Work
from retinue_server.service import VisionService
from retinue_server.settings import Settings
from retinue_server.vision.decode import open_raw
from retinue_server.vision.readers import InputPixels, RawPixels

SIDE = 100
ROW_BYTES = 32 * 64 * 3
OPTIONS = ClassifyOptions(1, 0, max_picture_bytes=0)
TURN = Turn("me", Priority.LOW, None)
Box = tuple[float, float, float, float]


class FakeQueue:
    """Answers each crop with its level as its class, or as it is told; notes what was asked at once."""

    refusal = None

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.instead: dict[int, RetinueError] = {}

    def __len__(self) -> int:
        return 0

    async def submit(self, works: Sequence[Work], **turn: Any) -> list[Outcome[Any]]:
        assert turn == {"caller": "me", "priority": Priority.LOW, "deadline": TURN.deadline}
        self.asked.append(len(works))
        return [Outcome(self._answer(work), 0.0) for work in works]

    def _answer(self, work: Work) -> Answer | RetinueError:
        assert isinstance(work.image, InputPixels)
        assert work.options is OPTIONS
        level = int(work.image.pixels[0, 0, 0])
        return self.instead.get(level) or Answer(Classification([level], [1.0]), 0.0, 0.0, 0.0, 1)


class Images:
    """Images of one level each, which say how often they were opened, and in which threads."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.threads: set[threading.Thread] = set()

    def source(self, level: int) -> Callable[[], RawPixels]:
        def opened() -> RawPixels:
            self.opened.append(level)
            self.threads.add(threading.current_thread())
            if not level:
                raise ImageError("it is damaged.")
            return open_raw(bytes([level] * SIDE * SIDE), SIDE, SIDE, "GRAY", max_pixels=SIDE * SIDE)

        return opened


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(instances=2)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def question(queue: FakeQueue) -> Question:
    return Question(served_model("a", batcher=queue), OPTIONS, context=0)


def crops(engine: Engine, **settings: Any) -> CropClassifier:
    return CropClassifier(VisionService(engine, Metrics()), Settings(**settings))


def found(*boxes: Box) -> Outcome[Answer]:
    detections = DetectionList(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(boxes), np.float32),
        np.zeros(len(boxes), np.int32),
        SIDE,
        SIDE,
    )
    return Outcome(Answer(detections, 0.1, 0.2, 0.3, 4), 0.5)


def classes(outcome: Outcome[Answer]) -> list[list[int]]:
    """The classes of each object of an image."""
    assert isinstance(outcome.value, Answer)
    assert isinstance(outcome.value.result, DetectionList)
    assert outcome.value.result.classes is not None
    return [one.class_ids if one is not None else [] for one in outcome.value.result.classes]


ONE, TWO, NOWHERE = (0, 0, 9, 9), (5, 5, 99, 50), (50, 50, 50, 50)
NOT_HELD: Callable[[int], None] = lambda size: None  # noqa: E731


async def test_each_object_gets_the_classes_of_its_own_pixels(
    engine: Engine, queue: FakeQueue, images: Images, question: Question
) -> None:
    sources = [images.source(level) for level in (11, 12, 13)]
    outcomes = [found(ONE, TWO), found(), found(TWO)]
    answered = await crops(engine).classify(question, outcomes, sources, TURN, NOT_HELD)
    assert [classes(outcome) for outcome in answered] == [[[11], [11]], [], [[13]]]
    assert [outcome.queue_seconds for outcome in answered] == [0.5] * 3
    # One batch for all, each image decoded once and none without objects, and not on the event loop.
    assert queue.asked == [3]
    assert sorted(images.opened) == [11, 13]
    assert threading.current_thread() not in images.threads


async def test_an_object_without_a_pixel_has_no_classes(
    engine: Engine, queue: FakeQueue, images: Images, question: Question
) -> None:
    sources = [images.source(11), images.source(12)]
    outcomes = [found(ONE, NOWHERE, TWO), found(NOWHERE)]
    answered = await crops(engine).classify(question, outcomes, sources, TURN, NOT_HELD)
    assert [classes(outcome) for outcome in answered] == [[[11], [], [11]], [[]]]
    assert (queue.asked, images.opened) == ([2], [11])


async def test_an_image_that_fails_does_so_alone(
    engine: Engine, queue: FakeQueue, images: Images, question: Question
) -> None:
    queue.instead[13] = EngineError("the run of it failed.")
    never_found = ImageError("it was no image.")
    sources = [images.source(level) for level in (11, 0, 13, 14)]
    outcomes = [found(ONE), found(ONE, TWO), found(TWO), Outcome(never_found, None)]
    answered = await crops(engine).classify(question, outcomes, sources, TURN, NOT_HELD)
    assert classes(answered[0]) == [[11]]
    assert isinstance(answered[1].value, ImageError)
    assert answered[2].value is queue.instead[13]
    assert answered[3].value is never_found
    assert 14 not in images.opened


async def test_what_a_call_holds_is_bounded_however_many_objects_there_are(
    engine: Engine, queue: FakeQueue, images: Images, question: Question
) -> None:
    held: list[int] = []
    sources = [images.source(level) for level in (11, 12, 13, 14)]
    outcomes = [found(ONE), found(*[ONE] * 7), found(TWO, TWO), found(ONE)]
    answered = await crops(engine, max_images_per_request=3).classify(
        question, outcomes, sources, TURN, held.append
    )
    assert [classes(outcome) for outcome in answered] == [[[11]], [[12]] * 7, [[13]] * 2, [[14]]]
    assert queue.asked == [1, 3, 3, 3, 1]
    assert held == [ROW_BYTES * count for count in (*queue.asked, 0)]
    # More than are held at once: so it is decoded anew for each part.
    assert sorted(images.opened) == [11, 12, 12, 12, 13, 14]


async def test_a_part_fits_into_a_small_queue(
    engine: Engine, queue: FakeQueue, images: Images, question: Question
) -> None:
    sources = [images.source(11)]
    for capacity, expected in ((1, [1] * 5), (8, [2, 2, 1])):
        queue.asked.clear()
        small = crops(engine, max_queue_images=capacity)
        await small.classify(question, [found(*[ONE] * 5)], sources, TURN, NOT_HELD)
        assert queue.asked == expected


async def test_what_cannot_be_held_is_refused_before_it_is_decoded(
    engine: Engine, images: Images, question: Question
) -> None:
    def refuse(size: int) -> None:
        raise OverloadedError("no room.", retry_after_seconds=1)

    with pytest.raises(OverloadedError):
        await crops(engine).classify(question, [found(ONE)], [images.source(11)], TURN, refuse)
    assert not images.opened


@pytest.mark.parametrize(
    "error", [DeadlineExpiredError("too late."), OverloadedError("full.", retry_after_seconds=1)]
)
async def test_what_is_no_images_fault_fails_the_call(
    engine: Engine, queue: FakeQueue, images: Images, question: Question, error: RetinueError
) -> None:
    queue.instead[12] = error
    with pytest.raises(type(error)):
        await crops(engine).classify(
            question, [found(ONE), found(ONE)], [images.source(11), images.source(12)], TURN, NOT_HELD
        )


async def test_a_deadline_that_has_passed_leaves_images_undecoded(
    engine: Engine, images: Images, question: Question
) -> None:
    passed = Turn("me", Priority.LOW, engine.clock() - 1)
    with pytest.raises(OverloadedError) as refusal:
        await crops(engine).classify(question, [found(ONE)], [images.source(11)], passed, NOT_HELD)
    assert refusal.value.reason == "DEADLINE_TOO_SHORT"
    assert not images.opened


async def test_when_the_caller_leaves_what_waits_is_not_decoded(
    engine: Engine, images: Images, question: Question
) -> None:
    begun, go_on = threading.Barrier(3), threading.Event()

    def held_up(level: int) -> Callable[[], RawPixels]:
        def opened() -> RawPixels:
            begun.wait(10)
            go_on.wait(10)
            return images.source(level)()

        return opened

    # Both threads are busy with the first two.
    sources = [held_up(11), held_up(12), images.source(13)]
    asking = asyncio.ensure_future(
        crops(engine).classify(question, [found(ONE)] * 3, sources, TURN, NOT_HELD)
    )
    await asyncio.to_thread(begun.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()
    await asyncio.to_thread(engine.stop)
    assert 13 not in images.opened
