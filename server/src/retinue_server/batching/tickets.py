"""What waits in a queue and what becomes of it."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

from retinue_server.errors import RetinueError

Result = TypeVar("Result", covariant=True)


class Priority(IntEnum):
    """Who goes first: nothing of a later class runs while an earlier one waits."""

    HIGH = 0
    NORMAL = 1
    LOW = 2
    # What no caller waits for. It takes no room from what callers ask for, either.
    COPY = 3


# Not frozen, as nothing is that is made for every item: that would take four times as long.
@dataclass(slots=True)
class Outcome(Generic[Result]):
    """What became of one item.

    Attributes:
        value: The answer, or why there is none.
        queue_seconds: How long the item waited before its batch was begun; None where it never waited.
    """

    value: Result | RetinueError
    queue_seconds: float | None


class Ticket:
    """One accepted request: collects the outcomes of its items and hands them to its caller when all are there.

    Args:
        size: How many items it has.
        caller: Whose it is.
        priority: When its turn is.
        deadline: When its answers are worthless, on the batcher's clock; None for never.
    """

    __slots__ = ("_loop", "_missing", "_outcomes", "caller", "deadline", "future", "priority")

    def __init__(self, size: int, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Outcome[Any]]] = self._loop.create_future()
        self._outcomes: list[Outcome[Any] | None] = [None] * size
        self.caller = caller
        self.priority = priority
        self.deadline = deadline
        self._missing = size

    def put(self, index: int, outcome: Outcome[Any]) -> None:
        """Stores one outcome, unless nobody waits for it any more. Called under the engine's lock."""
        if self.future.done():
            return
        self._outcomes[index] = outcome
        self._missing -= 1
        if self._missing == 0:
            self._loop.call_soon_threadsafe(self._finish)

    def drop(self) -> None:
        """Forgets the outcomes of a caller who has left. Called under the engine's lock."""
        self._outcomes = []

    def _finish(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if not self.future.done():
            self.future.set_result(outcomes)  # type: ignore[arg-type]


@dataclass(slots=True)
class Job:
    """One item that waits."""

    item: Any
    ticket: Ticket
    index: int
    queued_at: float


class Stopped(Exception):
    """A run has ended early, as it was asked to."""


class Stop:
    """Tells a batch that runs that nobody waits for its answers any more.

    Attributes:
        requested: Whether it is so.
    """

    __slots__ = ("_act", "requested")

    def __init__(self) -> None:
        self.requested = False
        self._act: Callable[[], None] | None = None

    def request(self) -> None:
        """Asks the batch to end."""
        self.requested = True
        if self._act is not None:
            self._act()

    def check(self) -> None:
        """Ends a run that nobody waits for.

        Raises:
            Stopped: It was asked to.
        """
        if self.requested:
            raise Stopped

    def when_requested(self, act: Callable[[], None]) -> None:
        """Has `act` called by whoever asks, or at once where it was asked before; perhaps twice, if both meet."""
        self._act = act
        if self.requested:
            act()


class Batch:
    """Jobs that run together.

    Attributes:
        jobs: At least one.
        alone: As for `Backend.run`.
        stop: Likewise.
    """

    __slots__ = ("alone", "jobs", "stop")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.alone = False
        self.stop = Stop()

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def of_copies(self) -> bool:
        """Whether nothing in it is more than a copy: what goes first comes first."""
        return self.jobs[0].ticket.priority is Priority.COPY

    def stop_if_abandoned(self) -> None:
        """Asks the run to end where no caller waits for it any more. Called under the engine's lock."""
        if all(job.ticket.future.done() for job in self.jobs):
            self.stop.request()
