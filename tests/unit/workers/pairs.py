"""A front-end and the engine's process in one process, with a network that a test can hold."""

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from retinue.v1 import manifest_pb2 as pb

from retinue_server import postprocess
from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.bundle.manifest import input_spec
from retinue_server.feeds import Feeds
from retinue_server.results import ClassifyOptions, Work
from retinue_server.vision.readers import RawPixels
from retinue_server.workers import backend
from retinue_server.workers.backend import SlotBackend, SlotPlan
from retinue_server.workers.frames import FrameReader, Kind
from retinue_server.workers.link import EngineLink
from retinue_server.workers.remote import RemoteBatcher
from retinue_server.workers.slots import Layout, Places, SharedMemory, Slots
from retinue_server.workers.submissions import ModelEnd, Submissions

SIDE = 2
LABELS = 200
MANIFEST = pb.ModelManifest(
    name="numbers",
    task=pb.TASK_CLASSIFY,
    labels=[str(number) for number in range(LABELS)],
    input=pb.ImageInput(
        height=SIDE,
        width=SIDE,
        colour=pb.COLOUR_GREY,
        resize=pb.ResizeRule(mode=pb.RESIZE_MODE_STRETCH, interpolation=pb.INTERPOLATION_BILINEAR),
    ),
    classify=pb.ClassifyOptions(heatmap_height=SIDE, heatmap_width=SIDE),
)
OPTIONS = ClassifyOptions(top_k=1, min_score=0, max_picture_bytes=10_000)


def work(number: int, *, quick: bool = True, options: ClassifyOptions = OPTIONS) -> Work:
    """An image whose class is its grey level; a quick one is copied, others are decoded by a thread."""
    channels, order = (1, "GRAY") if quick else (3, "RGB")
    data = bytes([number]) * (SIDE * SIDE * channels)
    return Work(RawPixels(data, (SIDE, SIDE), order), options)  # type: ignore[arg-type]


def works(number: int, count: int) -> list[Work]:
    """So many images of one class."""
    return [work(number) for _ in range(count)]


def broken_work() -> Work:
    """An image that cannot be decoded."""
    return Work(RawPixels(b"", (SIDE, SIDE), "RGB"), OPTIONS)


class NumberNetwork:
    """Sees which grey level an image has; waits at a gate; fails on batches that have a level it is told."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.extra: list[frozenset[str]] = []
        self.fails_on = -1

    def run(
        self,
        images: npt.NDArray[np.uint8],
        feeds: Mapping[str, npt.NDArray[Any]],
        extra: Collection[str],
        when_stopped: Callable[[Callable[[], None]], None],
        *,
        alone: bool = False,
    ) -> Mapping[str, npt.NDArray[Any]]:
        levels = images[:, 0, 0, 0].tolist()
        self.batches.append(levels)
        self.extra.append(frozenset(extra))
        self.begun.release()
        assert self.gate.wait(10)
        if self.fails_on in levels:
            raise ValueError("boom")
        outputs: dict[str, npt.NDArray[Any]] = {"probabilities": np.zeros((len(images), LABELS), np.float32)}
        outputs["probabilities"][np.arange(len(images)), levels] = 1
        if "heatmap" in extra:
            outputs["heatmap"] = images[..., 0].astype(np.float32)
        return outputs


def layout_of(count: int) -> Layout:
    """Of so many slots of the model."""
    answers = {
        "probabilities": np.zeros((1, LABELS), np.float32),
        "heatmap": np.zeros((1, SIDE, SIDE), np.float32),
    }
    layout = SlotPlan(count // 2, count // 2, 1).layout(
        MANIFEST, {name: (array.dtype, array.shape[1:]) for name, array in answers.items()}
    )
    assert layout.slots == count
    return layout


def shared_slots(count: int) -> tuple[Slots, Slots]:
    """The slots of the model, as the front-end has them and as the engine's process has them."""
    memory = SharedMemory.new()
    place = Places().new(layout_of(count))
    memory.grow(place)
    theirs = SharedMemory(os.dup(memory.file))
    both = memory.map(place), theirs.map(place)
    memory.close()
    theirs.close()
    return both


def front(slots: Slots, send: Callable[[bytes], None], threads: Engine) -> tuple[RemoteBatcher, EngineLink]:
    """The front-end's part."""
    link = EngineLink(send)
    batcher = RemoteBatcher(
        0,
        slots,
        link,
        threads,
        spec=input_spec(MANIFEST),
        feeds=Feeds(MANIFEST),
        postprocess=postprocess.for_manifest(MANIFEST),
        name="numbers/1",
    )
    return batcher, link


class Pair:
    """Both ends of one model; frames arrive in order, a moment later.

    Attributes:
        remote: What the front-end's callers have.
        network: What runs.
        slots: As the front-end has them.
        queue: In the engine's process.
    """

    def __init__(self, slots: int, instances: int, batch_size: int, capacity: int) -> None:
        self.network = NumberNetwork()
        self.engine = Engine(instances)
        self.threads = Engine(2)
        self.slots, engine_slots = shared_slots(slots)
        self.queue: Batcher[Any, Any] = Batcher(
            SlotBackend(
                self.network, engine_slots.layout, batch_sizes=(batch_size,), typical=lambda images: {}
            ),
            self.engine,
            capacity=capacity,
            item_seconds=0.0001,
            runs_with=backend.together,
        )
        self._reader = FrameReader()
        self._engine_slots = engine_slots
        loop = asyncio.get_running_loop()
        self.submissions = Submissions(
            {0: ModelEnd(self.queue, engine_slots)},
            lambda frame: loop.call_soon(self._to_front, frame) and None,
            self.publish,
        )
        self.remote, self.link = front(
            self.slots, lambda frame: loop.call_soon(self._to_engine, frame) and None, self.threads
        )
        self.publish(0)
        self.engine.start()
        self.threads.start()

    def publish(self, model: int) -> None:
        self._engine_slots.load.publish(len(self.queue), self.queue.capacity, {0: 0.0, 1: 0.0, 2: 0.0})  # type: ignore[dict-item]

    def stop(self) -> None:
        self.network.gate.set()
        self.engine.stop()
        self.threads.stop()

    def _to_engine(self, frame: bytes) -> None:
        for kind, body in FrameReader().feed(frame):
            {Kind.SUBMIT: self.submissions.submit, Kind.CANCEL: self.submissions.cancel}[kind](body)

    def _to_front(self, frame: bytes) -> None:
        for kind, body in FrameReader().feed(frame):
            self.link.take(kind, body)


@contextmanager
def pair(*, slots: int = 64, instances: int = 1, batch_size: int = 4, capacity: int = 32) -> Iterator[Pair]:
    """Both ends, stopped afterwards."""
    both = Pair(slots, instances, batch_size, capacity)
    try:
        yield both
    finally:
        both.stop()
