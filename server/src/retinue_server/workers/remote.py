"""The front-end's end of a model: decodes, has the engine's process run the network, and makes the results."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine
from retinue_server.batching.tickets import Outcome, Priority, Stop
from retinue_server.errors import EngineError, ImageError, RetinueError, UnavailableError
from retinue_server.feeds import Feeds
from retinue_server.postprocess import Postprocess
from retinue_server.results import Answer, ClassifyOptions, DetectOptions, TensorOptions, Work
from retinue_server.tracing.origin import current_origin
from retinue_server.vision.spec import InputSpec
from retinue_server.workers.frames import Ran, Submission
from retinue_server.workers.link import EngineLink
from retinue_server.workers.slots import Slots
from retinue_server.workers.stages import Decoded, Decoding, Finishing, Undecoded, Unfinished

# For the first estimates; measured from then on.
_FIRST_DECODE_SECONDS = 0.002
_FIRST_FINISH_SECONDS = 0.0002
# Copying so many bytes takes less time than to have a thread do it.
_QUICK_BYTES = 256 * 1024


class RemoteBatcher:
    """A model whose network runs in the engine's process; to its callers it is a `batching.Batcher`.

    Args:
        number: Of the model.
        slots: It shares them with the engine's process.
        link: Leads there.
        engine: Its threads decode images and make results.
        spec: What images the network takes.
        feeds: Makes what it takes beside images.
        postprocess: Makes a result of a row of its outputs.
        name: Of the model, for the log.

    Attributes:
        number: As given.
        refusal: Why nothing is taken, as the engine's process has told; None where it is.
    """

    def __init__(
        self,
        number: int,
        slots: Slots,
        link: EngineLink,
        engine: Engine,
        *,
        spec: InputSpec,
        feeds: Feeds,
        postprocess: Postprocess,
        name: str,
    ) -> None:
        self.number = number
        self.refusal: UnavailableError | None = None
        self._slots = slots
        self._link = link
        self._extra_bits = {row.name: 1 << bit for bit, row in enumerate(slots.layout.extra_outputs)}
        self._decode = Decoding(slots, spec, feeds, name)
        self._finish = Finishing(slots, postprocess, name)
        # Neither can be full: all they hold is in slots.
        capacity = 2 * slots.layout.slots
        self._decoding: Batcher[Undecoded, Decoded] = Batcher(
            self._decode, engine, capacity=capacity, item_seconds=_FIRST_DECODE_SECONDS, name=name
        )
        self._finishing: Batcher[Unfinished, Answer] = Batcher(
            self._finish, engine, capacity=capacity, item_seconds=_FIRST_FINISH_SECONDS, name=name
        )
        # What runs the network are the engine's process's batches.
        self._decoding.trace_batches = self._finishing.trace_batches = False

    def when_unused(self, call: Callable[[], object]) -> None:
        """Has a function called, once, when neither process touches the slots; to be asked when no call comes any more.

        Args:
            call: Called at once, or by any thread.
        """
        self._slots.when_all_free(call)

    def __len__(self) -> int:
        """Images that this front-end holds."""
        return self._slots.layout.slots - self._slots.free

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """Refuses what `submit` would refuse now, as far as that depends on no caller."""
        if self.refusal is not None:
            raise UnavailableError(self.refusal.message, reason=self.refusal.reason)
        self._slots.load.check(count, priority, deadline)

    async def submit(
        self,
        items: Sequence[Work],
        *,
        caller: Hashable = None,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> list[Outcome[Answer]]:
        """Waits for the outcomes of all images, in order, as `batching.Batcher.submit` does.

        Args:
            items: At least one, all with the same options.
            caller: Whose they are: callers take turns.
            priority: Items of a lower one wait for all of a higher one.
            deadline: When the answers are worthless, on time.monotonic.

        Raises:
            OverloadedError: The images do not fit into the queue, or it is too long for the deadline.
            UnavailableError: The model is not ready, or the engine is stopping or has failed.
        """
        self.check_room(len(items), caller=caller, priority=priority, deadline=deadline)
        lease, numbers = self._slots.lease(len(items))
        try:
            undecoded = [Undecoded(*both, lease) for both in zip(items, numbers, strict=True)]
            decoded = await self._decode_all(undecoded, caller, priority, deadline)
            lost = _what_ends_all(decoded)
            if lost is not None:
                return [Outcome(lost, one.queue_seconds) for one in decoded]
            outcomes: list[Outcome[Any]] = list(decoded)
            good = [place for place, one in enumerate(outcomes) if isinstance(one.value, Decoded)]
            if good:
                options = items[0].options
                origin = current_origin.get()
                submission = Submission(
                    request_id=0,
                    model=self.number,
                    priority=priority,
                    deadline=deadline,
                    caller=str(caller),
                    iou_threshold=options.iou_threshold
                    if isinstance(options, DetectOptions | TensorOptions)
                    else 0.0,
                    extra_outputs=sum(self._extra_bits[name] for name in options.extra_outputs),
                    slots=[numbers[place] for place in good],
                    call_id=origin.request_id if origin is not None else "",
                    trace=origin.trace.context if origin is not None and origin.trace is not None else None,
                )
                ran = await self._link.run(submission, lease)
                places, unfinished = _take_ran(undecoded, outcomes, good, ran)
                answers = await self._finish_all(unfinished, caller, priority)
                for place, answer in zip(places, answers, strict=True):
                    outcomes[place].value = answer
            return outcomes
        finally:
            lease.end()

    def close(self, timeout_seconds: float) -> None:
        """Takes no more images, and answers those that a thread here would have been next to see to with UNAVAILABLE.

        Args:
            timeout_seconds: How long to wait for what threads are at.
        """
        self._decoding.close(timeout_seconds)
        self._finishing.close(timeout_seconds)

    async def _decode_all(
        self, images: Sequence[Undecoded], caller: Hashable, priority: Priority, deadline: float | None
    ) -> list[Outcome[Decoded]]:
        sizes = [self._decode.quick_bytes(one.work) for one in images]
        if None not in sizes and sum(filter(None, sizes)) <= _QUICK_BYTES:
            return [Outcome(value, 0.0) for value in self._decode.run(images, Stop())]
        return await self._decoding.submit(images, caller=caller, priority=priority, deadline=deadline)

    async def _finish_all(
        self, images: Sequence[Unfinished], caller: Hashable, priority: Priority
    ) -> Sequence[Answer | RetinueError]:
        if not images:
            return ()
        options = images[0].options
        if isinstance(options, ClassifyOptions) and not options.heatmap:
            # Quicker done than handed over.
            return self._finish.run(images, Stop())
        outcomes = await self._finishing.submit(images, caller=caller, priority=priority)
        return [one.value for one in outcomes]


def _what_ends_all(outcomes: Sequence[Outcome[Any]]) -> RetinueError | None:
    """An error that leaves no image of the request an answer, if there is one."""
    errors = (one.value for one in outcomes if isinstance(one.value, RetinueError))
    return next((error for error in errors if not isinstance(error, ImageError | EngineError)), None)


def _take_ran(
    images: Sequence[Undecoded],
    outcomes: Sequence[Outcome[Any]],
    good: Sequence[int],
    ran: Sequence[Outcome[Ran]],
) -> tuple[list[int], list[Unfinished]]:
    """Notes how images ran: how long they waited, and the errors of those that did not.

    Args:
        images: All of the request.
        outcomes: What has become of them, and becomes now.
        good: The places of those that should have run.
        ran: What became of these.

    Returns:
        The places of those that did, and what is left to do for them.
    """
    places: list[int] = []
    unfinished: list[Unfinished] = []
    for place, one in zip(good, ran, strict=True):
        outcome, image, decoded = outcomes[place], images[place], outcomes[place].value
        outcome.queue_seconds = (outcome.queue_seconds or 0.0) + (one.queue_seconds or 0.0)
        if isinstance(one.value, RetinueError):
            outcome.value = one.value
        elif isinstance(decoded, Decoded):
            places.append(place)
            unfinished.append(Unfinished(image.slot, image.lease, decoded, image.work.options, one.value))
    return places, unfinished
