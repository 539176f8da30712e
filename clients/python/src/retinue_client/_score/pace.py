"""How many requests to keep under way: as many as the server takes, found by trying."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that was let through, and in which spell between two slowdowns."""

    spell: int


class Pace:
    """A limit on requests under way that grows with every answer and halves when the server refuses.

    It grows by one with each answer until the first refusal, then by one with each full round of answers: additive
    increase, multiplicative decrease. Refusals of requests that were sent before the last slowdown say nothing new.

    Source: V. Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.

    Args:
        start: The limit at first.
        maximum: The limit at most.
        clock: Seconds, monotonic.
    """

    def __init__(self, *, start: int, maximum: int, clock: Callable[[], float]) -> None:
        self._limit = float(min(start, maximum))
        self._maximum = maximum
        self._clock = clock
        self._under_way = 0
        self._spell = 0
        self._resume_at = 0.0

    @property
    def limit(self) -> int:
        """How many requests may be under way."""
        return int(self._limit)

    @property
    def under_way(self) -> int:
        """How many are."""
        return self._under_way

    def seconds_until_free(self) -> float | None:
        """How long to wait before the next request: 0 means none, None until another one has ended."""
        if self._under_way >= self.limit:
            return None
        return max(0.0, self._resume_at - self._clock())

    def begin(self) -> Ticket:
        """Counts a request as under way."""
        self._under_way += 1
        return Ticket(self._spell)

    def end(self) -> None:
        """Counts a request as no longer under way, however it ended."""
        self._under_way -= 1

    def answered(self) -> None:
        """Takes note that a request was answered."""
        step = 1.0 if self._spell == 0 else 1.0 / self._limit
        self._limit = min(float(self._maximum), self._limit + step)

    def refused(self, ticket: Ticket, delay_seconds: float) -> None:
        """Takes note that the server refused a request and how long it wants to be left alone."""
        self._resume_at = max(self._resume_at, self._clock() + delay_seconds)
        if ticket.spell == self._spell:
            self._spell += 1
            self._limit = max(1.0, self._limit / 2)
