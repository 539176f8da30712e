"""What waits in a queue and what becomes of it."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Generic, TypeVar

from retinue_server.errors import RetinueError
from retinue_server.tracing.origin import current_origin

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

    Attributes:
        origin: The call that it is for; None where there is none.
    """

    __slots__ = ("_loop", "_missing", "_outcomes", "caller", "deadline", "future", "origin", "priority")

    def __init__(self, size: int, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Outcome[Any]]] = self._loop.create_future()
        self._outcomes: list[Outcome[Any] | None] = [None] * size
        self.caller = caller
        self.priority = priority
        self.deadline = deadline
        self.origin = current_origin.get()
        self._missing = size

    @property
    def traced(self) -> bool:
        """Whether its call is."""
        return self.origin is not None and self.origin.trace is not None

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


class BatchEnd(StrEnum):
    """How the run of a batch ended."""

    RAN = "ran"
    # It raised: none of its items has an answer.
    FAILED = "failed"
    # Nobody waited for it any more.
    STOPPED = "stopped"
