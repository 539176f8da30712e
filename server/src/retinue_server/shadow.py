"""Copies of requests go to a candidate version, whose answers are compared with those that were given, and dropped."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from retinue_server.agreement import agreement, translation
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.catalog import ServedModel
from retinue_server.errors import (
    DeadlineExpiredError,
    ImageError,
    OverloadedError,
    RetinueError,
    UnavailableError,
)
from retinue_server.metrics import Metrics
from retinue_server.results import (
    Answer,
    Classification,
    ClassifyOptions,
    DetectionList,
    DetectOptions,
    Options,
    Segmentation,
    SegmentOptions,
    TensorWork,
    Work,
)

_log = structlog.get_logger(__name__)

# Of all copies that are under way; what has no room is not copied.
_MOST_IMAGES = 256
_MOST_BYTES = 64 * 1024 * 1024
# Copies run when nothing else waits, which may be never; and as long as one waits, its model cannot be unloaded.
_LONGEST_SECONDS = 10.0
_CALLER = "shadow"
# What says nothing of the candidate, but of how much else there is to do.
_LACK_OF_ROOM = (DeadlineExpiredError, OverloadedError, UnavailableError)

Works = Sequence[Work | TensorWork | ImageError]


# Made for every request, and so not frozen.
@dataclass(slots=True)
class Copy:
    """How a request is made again: what it was made into first is used up when it is answered.

    Attributes:
        size_bytes: What is kept in memory for it.
        make: Makes it for another version.
        of_tensors: Whether it asks for a network's outputs as they are, so that both must take and give the same.
    """

    size_bytes: Callable[[], int]
    make: Callable[[ServedModel], Works]
    of_tensors: bool = False


class Shadow:
    """Sends copies to candidates, and counts how far these agree. Nobody waits for it, or fails by it.

    Args:
        metrics: Where they are counted.
        most_images: So many images are under way at once.
        most_bytes: And so many bytes of requests.
    """

    def __init__(
        self, metrics: Metrics, most_images: int = _MOST_IMAGES, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._metrics = metrics
        self._room_images = most_images
        self._room_bytes = most_bytes
        # What is under way, each with the candidate that it asks.
        self._running: dict[asyncio.Task[None], ServedModel] = {}
        self._comparing = asyncio.Lock()

    def send(
        self, model: ServedModel, candidate: ServedModel, copy: Copy, outcomes: Sequence[Outcome[Answer]]
    ) -> None:
        """Begins to ask a candidate what was answered by another version of the model.

        Args:
            model: What has answered.
            candidate: What is to be compared with it.
            copy: The request.
            outcomes: The answers.
        """
        count = sum(isinstance(one.value, Answer) for one in outcomes)
        if not count:
            return
        if not _comparable(model, candidate, of_tensors=copy.of_tensors):
            self._metrics.count_shadow(model, candidate, "failed", count)
            return
        size_bytes = copy.size_bytes() + sum(_kept_bytes(one.value) for one in outcomes)
        if count > self._room_images or size_bytes > self._room_bytes or not _has_room(candidate, count):
            self._metrics.count_shadow(model, candidate, "dropped", count)
            return
        self._room_images -= count
        self._room_bytes -= size_bytes
        # The one that has answered, too: its metrics must not come again when they are forgotten.
        for held in (model, candidate):
            held.leases.take()

        def done(task: asyncio.Task[None]) -> None:
            del self._running[task]
            self._room_images += count
            self._room_bytes += size_bytes
            for held in (model, candidate):
                held.leases.give_back()

        task = asyncio.get_running_loop().create_task(self._ask(model, candidate, copy, outcomes))
        self._running[task] = candidate
        task.add_done_callback(done)

    def keep(self, served: Iterable[ServedModel]) -> None:
        """Gives up what is under way for candidates that are not among those served, and would wait for it."""
        still = set(map(id, served))
        for task, candidate in self._running.items():
            if id(candidate) not in still:
                task.cancel()

    def close(self) -> None:
        """Gives up what is under way."""
        self.keep([])

    async def _ask(
        self, model: ServedModel, candidate: ServedModel, copy: Copy, outcomes: Sequence[Outcome[Answer]]
    ) -> None:
        left = sum(isinstance(one.value, Answer) for one in outcomes)
        outcome = "failed"
        try:
            works = await asyncio.to_thread(_for_candidate, copy, model, candidate)
            pairs = [
                (one.value, work)
                for one, work in zip(outcomes, works, strict=True)
                if isinstance(one.value, Answer) and not isinstance(work, ImageError)
            ]
            if not pairs:
                return
            answered = await candidate.batcher.submit(
                [work for _, work in pairs],
                caller=_CALLER,
                priority=Priority.COPY,
                deadline=time.monotonic() + _LONGEST_SECONDS,
            )
            dropped = sum(isinstance(one.value, _LACK_OF_ROOM) for one in answered)
            both = [
                (answer, one.value)
                for (answer, _), one in zip(pairs, answered, strict=True)
                if isinstance(one.value, Answer)
            ]
            # One at a time, since class maps may be large.
            async with self._comparing:
                agreements = await asyncio.to_thread(_agreements, model, candidate, both)
            self._metrics.count_agreements(model, candidate, agreements)
            self._metrics.count_shadow(model, candidate, "dropped", dropped)
            left -= len(both) + dropped
        except (asyncio.CancelledError, *_LACK_OF_ROOM):
            # Whoever cancels it waits for nothing.
            outcome = "dropped"
        except RetinueError as error:
            _log.warning("shadow_failed", model=model.name, candidate=candidate.version, reason=error.message)
        except Exception:
            _log.exception("shadow_failed", model=model.name, candidate=candidate.version)
        finally:
            self._metrics.count_shadow(model, candidate, outcome, left)


def _kept_bytes(answer: Answer | RetinueError) -> int:
    """What an answer keeps in memory until it is compared, but for some numbers."""
    if isinstance(answer, RetinueError):
        return 0
    result = answer.result
    if isinstance(result, Classification):
        return len(result.heatmap or b"")
    if isinstance(result, DetectionList):
        return sum(map(len, result.masks or ()))
    if isinstance(result, Segmentation):
        return (
            len(result.mask) if isinstance(result.mask, bytes) else sum(len(runs) for _, runs in result.mask)
        )
    return sum(array.nbytes for array in result.arrays.values())


def _has_room(candidate: ServedModel, count: int) -> bool:
    try:
        candidate.batcher.check_room(count, caller=_CALLER, priority=Priority.COPY, deadline=None)
    except RetinueError:
        return False
    return True


def _comparable(model: ServedModel, candidate: ServedModel, *, of_tensors: bool) -> bool:
    """Whether the two can be asked the same."""
    if model.task is not candidate.task:
        return False
    if of_tensors:
        return (
            model.interface.inputs == candidate.interface.inputs
            and model.interface.outputs == candidate.interface.outputs
            and model.interface.batched == candidate.interface.batched
        )
    return bool(model.manifest.detect.max_regions == candidate.manifest.detect.max_regions)


def _for_candidate(copy: Copy, model: ServedModel, candidate: ServedModel) -> Works:
    """What the candidate is asked: the same, in its own class ids, and without pictures that are not compared."""
    works = copy.make(candidate)
    known: dict[int, Options] = {}
    for work in works:
        if isinstance(work, Work):
            options = work.options
            if id(options) not in known:
                known[id(options)] = _options(options, model, candidate)
            work.options = known[id(options)]
    return works


def _options(options: Options, model: ServedModel, candidate: ServedModel) -> Options:
    if isinstance(options, ClassifyOptions):
        return replace(options, heatmap=False)
    if isinstance(options, DetectOptions):
        return replace(options, masks=False, class_ids=_class_ids(options.class_ids, model, candidate))
    if isinstance(options, SegmentOptions):
        return replace(options, class_ids=_class_ids(options.class_ids, model, candidate))
    return options


def _class_ids(
    wanted: frozenset[int] | None, model: ServedModel, candidate: ServedModel
) -> frozenset[int] | None:
    labels = model.manifest.labels
    if wanted is None or labels == candidate.manifest.labels:
        return wanted
    return frozenset().union(*(candidate.class_ids.get(labels[one], frozenset()) for one in wanted))


def _agreements(
    model: ServedModel, candidate: ServedModel, pairs: Sequence[tuple[Answer, Answer]]
) -> list[float]:
    labels = model.manifest.labels
    classes = translation(labels, candidate.manifest.labels)
    return [agreement(one.result, other.result, classes, len(labels)) for one, other in pairs]
