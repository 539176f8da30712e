"""How long the code around a call may still take, which bounds all calls in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from retinue_client._errors import DeadlineExceededError

# On time.monotonic.
_EARLIEST: ContextVar[float | None] = ContextVar("retinue_client_deadline", default=None)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Bounds all calls of clients within: together they take at most so long.

    A call gets what is left, or its own timeout where that is sooner, and so does the server, which refuses at once
    what it cannot do in that time. Where nothing is left, a call is not sent and raises DeadlineExceededError. Of
    deadlines within each other the soonest holds. Tasks of asyncio inherit it from where they were started, threads do
    not.

    Args:
        seconds: From now; None bounds nothing. In a handler of gRPC it is what `context.time_remaining()` says.
    """
    outer = _EARLIEST.get()
    if seconds is None:
        yield
        return
    own = time.monotonic() + seconds
    token = _EARLIEST.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _EARLIEST.reset(token)


def remaining_seconds() -> float | None:
    """What is left within `deadline`, at least 0; None outside of it."""
    earliest = _EARLIEST.get()
    return None if earliest is None else max(earliest - time.monotonic(), 0.0)


def bounded(timeout_seconds: float | None) -> float | None:
    """A call's own timeout, or what is left where that is less.

    Raises:
        DeadlineExceededError: Nothing is left.
    """
    earliest = _EARLIEST.get()
    if earliest is None:
        return timeout_seconds
    left = earliest - time.monotonic()
    if left <= 0:
        raise DeadlineExceededError(
            "The deadline of the code around this call has passed, so nothing was sent."
        )
    return left if timeout_seconds is None else min(left, timeout_seconds)
