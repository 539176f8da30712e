"""Which calls are traced."""

import time
from collections.abc import Callable
from random import random

from retinue_server.tracing.spans import SpanContext


class Sampling:
    """Traces a share of all calls, and those whose callers keep the trace, as far as these are not too many.

    What callers say costs them nothing, and this server something. So beyond a rate, a call whose caller keeps the
    trace is chosen like any other.

    Args:
        share: Of the calls without a caller's trace, in [0, 1].
        callers_per_second: How many may be traced because their callers say so.
        clock: Monotonic seconds.
        chance: A number in [0, 1).
    """

    def __init__(
        self,
        share: float,
        callers_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random,
    ) -> None:
        self._share = share
        self._per_second = callers_per_second
        self._clock = clock
        self._chance = chance
        # What a second brings, at least one unless there are none.
        self._most = max(callers_per_second, 1.0) if callers_per_second else 0.0
        self._level = self._most
        self._filled = clock()

    def chooses(self, parent: SpanContext | None) -> bool:
        """Whether a call is traced.

        Args:
            parent: The caller's span; None where it has none.
        """
        if parent is not None and not parent.sampled:
            return False
        return (parent is not None and self._draw()) or self._chance() < self._share

    def _draw(self) -> bool:
        now = self._clock()
        self._level = min(self._level + (now - self._filled) * self._per_second, self._most)
        self._filled = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
