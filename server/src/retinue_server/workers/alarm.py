"""One call in the future, however often it is asked for."""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls a function on the event loop, once at the earliest of the times that it was asked for.

    Args:
        call: Called without arguments; may ask again.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        # The time is kept beside the handle: uvloop's, for a time that has come, cannot tell its own.
        self._at = math.inf
        self._handle: asyncio.Handle | None = None

    def ring_in(self, seconds: float) -> None:
        """Has it called by then."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._at <= at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._at = at
        self._handle = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._at, self._handle = math.inf, None
        self._call()
