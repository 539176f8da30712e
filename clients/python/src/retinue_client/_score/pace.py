"""How many images to keep under way at a server: as many as keep it busy, found by trying."""

from collections.abc import Callable
from dataclasses import dataclass

# Images that wait in the server so long are enough for it to be never without work; more would only wait longer.
_ENOUGH_QUEUE_SECONDS = 0.25
# From here on some of them are taken back.
_LONG_QUEUE_SECONDS = 1.0
# By how much a full round of answers raises the limit after the first refusal, or lowers it.
_STEP_IMAGES = 8.0
# Two, so that one is sent while the other is computed.
_LEAST_IMAGES = 2.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """Images that were let through, and in which spell between two slowdowns."""

    images: int
    spell: int


class Pace:
    """A limit on images under way that grows with every answer and halves when the server refuses.

    It doubles with each round of answers until the first refusal, then grows by a few images a round: additive
    increase, multiplicative decrease. It does not grow while images wait in the server long enough to keep it busy,
    which the server says itself, so that a server is found out without being overrun. Refusals of requests that were
    sent before the last slowdown say nothing new.

    Source: V. Jacobson, Congestion Avoidance and Control, SIGCOMM 1988; for the queue, L. Brakmo and L. Peterson, TCP
    Vegas, 1995.

    Args:
        start: The limit at first, in images.
        maximum: The limit at most.
        clock: Seconds, monotonic.
    """

    def __init__(self, *, start: int, maximum: int, clock: Callable[[], float]) -> None:
        self._least = min(_LEAST_IMAGES, float(maximum))
        self._limit = float(min(start, maximum))
        self._maximum = maximum
        self._clock = clock
        self._under_way = 0
        self._spell = 0
        self._resume_at = 0.0

    @property
    def limit(self) -> int:
        """How many images may be under way."""
        return int(self._limit)

    @property
    def under_way(self) -> int:
        """How many are."""
        return self._under_way

    def load(self, images: int) -> float:
        """What share of the limit would be under way with so many more."""
        return (self._under_way + images) / self._limit

    def seconds_until_free(self, images: int) -> float | None:
        """How long to wait before so many may follow: 0 means not at all, None until others have ended.

        A request of more than the limit is let through alone.
        """
        if self._under_way and self._under_way + images > self.limit:
            return None
        return max(0.0, self._resume_at - self._clock())

    def begin(self, images: int) -> Ticket:
        """Counts images as under way."""
        self._under_way += images
        return Ticket(images, self._spell)

    def end(self, ticket: Ticket) -> None:
        """Counts them as no longer under way, however that ended."""
        self._under_way -= ticket.images

    def answered(self, ticket: Ticket, queue_seconds: float) -> None:
        """Takes note that a request was answered.

        Args:
            ticket: Of its images.
            queue_seconds: How long an image of it waited in the server for the engine.
        """
        round_share = ticket.images / self._limit
        if queue_seconds > _LONG_QUEUE_SECONDS:
            self._limit -= _STEP_IMAGES * round_share
        elif queue_seconds < _ENOUGH_QUEUE_SECONDS:
            self._limit += float(ticket.images) if self._spell == 0 else _STEP_IMAGES * round_share
        self._limit = max(self._least, min(float(self._maximum), self._limit))

    def refused(self, ticket: Ticket, delay_seconds: float) -> None:
        """Takes note that the server refused a request and how long it wants to be left alone."""
        self._resume_at = max(self._resume_at, self._clock() + delay_seconds)
        if ticket.spell == self._spell:
            self._spell += 1
            self._limit = max(self._least, self._limit / 2)
