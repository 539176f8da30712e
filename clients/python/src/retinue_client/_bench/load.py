"""How hard a server is asked."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many callers, each of which asks again as soon as it has its answer.

    Attributes:
        concurrency: How many.
    """

    concurrency: int

    def share(self, index: int, processes: int) -> "ClosedLoop":
        """What one of several processes has to do of it."""
        return ClosedLoop((self.concurrency + processes - 1 - index) // processes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {"loop": "closed", "concurrency": self.concurrency}

    def __str__(self) -> str:
        return f"{self.concurrency:,} at once"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests that come when they come, whether those before them were answered or not.

    Attributes:
        rate: Requests a second, on average; as those of many independent users do, they come at random.
    """

    rate: float

    def share(self, index: int, processes: int) -> "OpenLoop":
        """What one of several processes has to do of it: Poisson processes add up to one."""
        del index
        return OpenLoop(self.rate / processes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {"loop": "open", "rate": self.rate}

    def __str__(self) -> str:
        return f"{self.rate:,g}/s"


Load: TypeAlias = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Window:
    """When a load begins, when its requests begin to count, and when it ends, in seconds of the monotonic clock.

    Attributes:
        start: The first request.
        counted_from: Requests that are due from here on are counted; those before are to warm up.
        end: No request is due from here on.
        slice_seconds: In what steps the course of things is noted.
    """

    start: float
    counted_from: float
    end: float
    slice_seconds: float

    def counts(self, moment: float) -> bool:
        """Whether what happens then is counted."""
        return self.counted_from <= moment < self.end

    def slice_at(self, moment: float) -> int:
        """The number of the step that a moment lies in."""
        return int((moment - self.start) / self.slice_seconds)


def arrivals(rate: float, start: float, end: float, seed: int) -> Iterator[float]:
    """The moments from `start` to `end` at which requests are due: a Poisson process.

    Args:
        rate: How many there are in a second, on average.
        start: Where it begins.
        end: Where it ends.
        seed: The same seed gives the same moments.
    """
    chance = random.Random(seed)
    moment = start + chance.expovariate(rate)
    while moment < end:
        yield moment
        moment += chance.expovariate(rate)
