"""Looks after engines for as long as the process lives."""

import threading
import time
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)

# Of the time between two looks. What a suspended or starved process did not see pass is no time that a batch ran.
_MOST_TIMES_A_TICK = 2
_TICK_SECONDS = 0.25


class Watchdog:
    """Calls a function again and again, and tells it how much time has passed in which this process could run.

    A process that is stopped (SIGSTOP, a suspended machine) or gets no core finds that its clock has jumped, although
    nothing of it hangs. So what lies between two looks counts as no more than twice what was meant to.

    Args:
        look: Called with the seconds since the last time.
        tick_seconds: Between two looks.
        clock: Monotonic seconds; a test may drive it.
    """

    def __init__(
        self,
        look: Callable[[float], object],
        tick_seconds: float = _TICK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._tick_seconds = tick_seconds
        self._clock = clock
        self._last = clock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()
        self._thread.join()

    def tick(self) -> None:
        """Looks once."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        self._look(min(elapsed, _MOST_TIMES_A_TICK * self._tick_seconds))

    def _work(self) -> None:
        failing = False
        while not self._stopped.wait(self._tick_seconds):
            try:
                self.tick()
                failing = False
            except Exception:
                # Whatever it is, nobody else would stop the next batch that hangs. It is told once.
                if not failing:
                    _log.exception("batch_watch_failed")
                failing = True
