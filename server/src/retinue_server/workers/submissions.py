"""The engine's end of one front-end: takes its requests, and says what became of them."""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import structlog

from retinue_server.batching.queue import Queue
from retinue_server.batching.tickets import Outcome
from retinue_server.errors import EngineError, RetinueError
from retinue_server.tracing.origin import Origin, current_origin
from retinue_server.tracing.tracer import CallTrace, Tracer
from retinue_server.workers import frames
from retinue_server.workers.backend import SlotImage, SlotRequest
from retinue_server.workers.frames import FrameError, Kind
from retinue_server.workers.slots import Lease, Slots

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelEnd:
    """A model, and the slots that the front-end has of it."""

    queue: Queue
    slots: Slots


class Submissions:
    """The requests of one front-end that are in the engine's process.

    Args:
        models: By their numbers; they come and go.
        send: Sends a frame to the front-end.
        on_change: Told the number of a model of which a request has come or gone, before anything is said of it.
        tracer: Makes spans of the batches that run for calls that the front-end traces; None makes none.
    """

    def __init__(
        self,
        models: Mapping[int, ModelEnd],
        send: Callable[[bytes], None],
        on_change: Callable[[int], None] = lambda model: None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._models = models
        self._send: Callable[[bytes], None] | None = send
        self._on_change = on_change
        self._tasks: dict[int, asyncio.Task[list[Outcome[Any]]]] = {}

    def submit(self, body: bytes) -> None:
        """Takes a request.

        Raises:
            FrameError: It is none.
        """
        one = frames.unpack_submission(body)
        model = self._models.get(one.model)
        if model is None or one.request_id in self._tasks:
            raise FrameError(f"request {one.request_id} for model {one.model}")
        layout = model.slots.layout
        if not one.slots or max(one.slots) >= layout.slots:
            raise FrameError("slots that there are not")
        loop = asyncio.get_running_loop()
        ended = frames.frame(Kind.ENDED, frames.pack_number(one.request_id))
        # The last to use the slots may be a thread of the engine.
        lease = Lease(lambda: loop.call_soon_threadsafe(self._say, ended))
        extra = frozenset(
            row.name for bit, row in enumerate(layout.extra_outputs) if one.extra_outputs >> bit & 1
        )
        request = SlotRequest(model.slots, lease, one.iou_threshold, extra)
        context = copy_context()
        context.run(current_origin.set, self._origin(one))
        task = loop.create_task(
            model.queue.submit(
                [SlotImage(request, slot) for slot in one.slots],
                caller=one.caller,
                priority=one.priority,
                deadline=one.deadline,
            ),
            context=context,
        )
        self._tasks[one.request_id] = task
        task.add_done_callback(lambda task: self._answer(one, lease, task))
        # Once it is in the queue.
        loop.call_soon(self._on_change, one.model)

    def cancel(self, body: bytes) -> None:
        """Ends a request that nobody waits for any more, if it has not ended.

        Raises:
            FrameError: It names none.
        """
        task = self._tasks.get(frames.unpack_number(body))
        if task is not None:
            task.cancel()

    def drop_all(self) -> None:
        """Ends all requests: the front-end is gone."""
        self._send = None
        for task in self._tasks.values():
            task.cancel()

    async def answered(self) -> None:
        """Waits until what became of every request has been said."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _origin(self, one: frames.Submission) -> Origin:
        """What a request is for, as far as this process knows: the front-end ends the trace."""
        if self._tracer is None or one.trace is None:
            return Origin(one.call_id)
        return Origin(one.call_id, CallTrace(self._tracer, context=one.trace))

    def _answer(self, one: frames.Submission, lease: Lease, task: "asyncio.Task[list[Outcome[Any]]]") -> None:
        del self._tasks[one.request_id]
        self._on_change(one.model)
        if task.cancelled():
            # What says so is sent when no batch has the images any more.
            lease.end()
            return
        error = task.exception()
        if error is None:
            self._say(frames.frame(Kind.REPLY, frames.pack_reply(one.request_id, task.result())))
            return
        if not isinstance(error, RetinueError):
            _log.error("submission_failed", model=one.model, exc_info=error)
            error = EngineError("the server failed on this request; its log says how.")
        self._say(frames.frame(Kind.REFUSED, frames.pack_refusal(one.request_id, error)))

    def _say(self, frame: bytes) -> None:
        if self._send is not None:
            self._send(frame)
