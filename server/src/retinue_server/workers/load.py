"""What the engine's process tells front-ends of a model's queue, in shared memory: they refuse what it would refuse."""

import time
from collections.abc import Callable, Mapping

from retinue_server.batching.tickets import Priority
from retinue_server.errors import OverloadedError

LOAD_BYTES = 64
_LEAST_RETRY_SECONDS = 0.05


class Load:
    """How long a model's queue is. Each number is written and read whole; that they fit together is not needed.

    Args:
        memory: `LOAD_BYTES` bytes.
        clock: Monotonic seconds that both processes share; a test may drive it.
    """

    def __init__(self, memory: memoryview, clock: Callable[[], float] = time.monotonic) -> None:
        self._numbers = memory.cast("d")
        self._clock = clock

    def publish(self, waiting: int, capacity: int, wait_seconds: Mapping[Priority, float]) -> None:
        """Tells of the queue. A later call makes the numbers of an earlier one void.

        Args:
            waiting: Images that wait.
            capacity: Images that may wait.
            wait_seconds: How long one more image of a new caller would wait, by its priority.
        """
        now = self._clock()
        self._numbers[0] = capacity
        self._numbers[1] = waiting
        for priority, seconds in wait_seconds.items():
            # The wait gets shorter by itself, so what is told is when it will be over.
            self._numbers[2 + priority] = now + seconds if seconds else 0.0

    def publish_waiting(self, waiting: int) -> None:
        """Tells only how many images wait, which takes a microsecond; a wait that was told gets shorter by itself."""
        self._numbers[1] = waiting

    @property
    def retry_after_seconds(self) -> float:
        """When what is refused now has a fair chance."""
        return max(self._wait_seconds(Priority.NORMAL), _LEAST_RETRY_SECONDS)

    def check(self, count: int, priority: Priority, deadline: float | None) -> None:
        """Refuses what the engine's process would refuse whoever the caller is, before it costs anything.

        Args:
            count: Images of the request.
            priority: Of the request.
            deadline: When its answers are worthless; None for never.

        Raises:
            OverloadedError: The images do not fit into the queue, or it is too long for the deadline.
        """
        capacity, waiting = int(self._numbers[0]), int(self._numbers[1])
        wait_seconds = self._wait_seconds(priority)
        retry_after_seconds = max(wait_seconds, _LEAST_RETRY_SECONDS)
        if count > capacity - waiting:
            raise OverloadedError(
                f"the model's queue holds {waiting} of {capacity} images: {count} more are too many; retry in "
                f"{retry_after_seconds:.2f} s or send fewer at once.",
                retry_after_seconds=retry_after_seconds,
            )
        if deadline is not None and self._clock() + wait_seconds > deadline:
            raise OverloadedError(
                f"the deadline cannot be met: {wait_seconds:.3f} s of work are waiting; allow more time or retry in "
                f"{retry_after_seconds:.2f} s.",
                retry_after_seconds=retry_after_seconds,
                reason="DEADLINE_TOO_SHORT",
            )

    def _wait_seconds(self, priority: Priority) -> float:
        return max(0.0, self._numbers[2 + priority] - self._clock())
