"""When a request that got no answer is sent again, and when a second one is sent beside it."""

import threading
from dataclasses import dataclass
from typing import Self

from retinue_client._errors import OverloadedError, RetinueError, UnavailableError

# What a second try meets again: who was asked is no Retinue server, or this client is being closed.
_LASTING = frozenset({"TLS_FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is sent again: only after what may get better, and never later than its deadline.

    That is what the server says may be tried later (RetryInfo: QUEUE_FULL, TOO_MANY_CALLS, ...), what another server
    may take (DRAINING, LOADING, ...), and a connection that was lost or did not come about. The deadline of a call is
    that of all its tries together.

    Attributes:
        max_attempts: How often one request is sent at most, at least 1.
        first_delay_seconds: About how long to wait before the second time, twice as long before the third, and so on;
            as long as the server advises where that is longer.
        longest_delay_seconds: At most so long; who is told to come back later than this is told so with an error.
        burst: So many requests may be sent again at once: a client has this many tokens, and each time takes one, but
            where the request had reached nobody.
        tokens_per_answer: What each answer adds to them. With servers that go on failing, for each answer only so many
            requests are sent twice.
        hedge_after_seconds: A request that has no answer after so long is sent a second time, to another server where
            several are given; who answers first counts, and the other one is cancelled. It is one of the attempts and
            takes a token, too. None never does it.
    """

    max_attempts: int = 5
    first_delay_seconds: float = 0.05
    longest_delay_seconds: float = 5.0
    burst: int = 100
    tokens_per_answer: float = 0.1
    hedge_after_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1.")
        numbers = (
            self.first_delay_seconds,
            self.longest_delay_seconds,
            self.burst,
            self.tokens_per_answer,
            self.hedge_after_seconds or 0.0,
        )
        # Neither a negative one nor NaN.
        if not all(number >= 0 for number in numbers):
            raise ValueError("Delays, burst and tokens_per_answer must not be negative.")

    @classmethod
    def none(cls) -> Self:
        """Each request is sent once, whatever comes of it."""
        return cls(max_attempts=1)


class Budget:
    """The tokens of `Retries`, of all threads together.

    What is sent again is what a server could not do the first time: without a bound, clients would answer its
    overload with several times as many requests.

    Attributes:
        full: Whether there are as many as there may be.
    """

    def __init__(self, retries: Retries) -> None:
        self.full = True
        self._most = float(retries.burst)
        self._earned = retries.tokens_per_answer
        self._tokens = self._most
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request was answered."""
        with self._lock:
            self._tokens = min(self._tokens + self._earned, self._most)
            self.full = self._tokens == self._most

    def spend(self) -> bool:
        """Takes a token, if there is one."""
        with self._lock:
            # The sum of ten tenths is a little less than one.
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens -= 1
            self.full = False
            return True


def may_get_better(error: RetinueError) -> bool:
    """Whether the same request may be answered another time, or by another server."""
    if isinstance(error, OverloadedError):
        return error.retry_after_seconds is not None
    return isinstance(error, UnavailableError) and error.reason not in _LASTING
