"""Whose turn it is among several servers that are asked over channels of their own."""

import itertools
import time
from collections.abc import Callable

# gRPC tries to connect again no more often than this.
_ASIDE_SECONDS = 1.0


class Turns:
    """Gives each its turn, and passes over those that took nothing the last time.

    One of these is asked again after a while, by one request, and has its turns again when it has answered that.

    Args:
        count: How many there are.
        clock: time.monotonic, or a test's.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._turn = itertools.count()
        # When each may be asked again; 0 for any time. Threads that meet here cost a try at most.
        self._aside_until = [0.0] * count

    def next(self, but: int | None = None) -> int:
        """Whose turn it is; not that of `but`, where there is another."""
        first = next(self._turn)
        places = [(first + step) % self._count for step in range(self._count)]
        others = [place for place in places if place != but]
        now = self._clock()
        for place in others:
            until = self._aside_until[place]
            if until <= now:
                if until:
                    self._aside_until[place] = now + _ASIDE_SECONDS
                return place
        return (others or places)[0]

    def set_aside(self, place: int) -> None:
        """It takes nothing at the moment."""
        self._aside_until[place] = self._clock() + _ASIDE_SECONDS

    def answered(self, place: int) -> None:
        """It does."""
        self._aside_until[place] = 0.0
