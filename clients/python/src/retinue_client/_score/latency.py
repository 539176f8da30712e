"""Percentiles of any number of durations in a bounded amount of memory."""

import math
from collections import Counter
from typing import Any, Self

# Neighbouring buckets differ by 1 percent, which is then the precision of a percentile.
_GROWTH = 1.01
_LOG_GROWTH = math.log(_GROWTH)
_LEAST_SECONDS = 1e-5
_BUCKETS = 2400


class Latencies:
    """Counts durations in buckets whose bounds grow geometrically, from ten microseconds to days.

    Attributes:
        count: How many durations were counted.
        total_seconds: Their sum.
        longest_seconds: The longest of them, 0 where there are none.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total_seconds = 0.0
        self.longest_seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts a duration, as often as `count`."""
        bucket = math.ceil(math.log(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS) / _LOG_GROWTH)
        self._counts[min(bucket, _BUCKETS - 1)] += count
        self.count += count
        self.total_seconds += seconds * count
        self.longest_seconds = max(self.longest_seconds, seconds)

    def merge(self, other: "Latencies") -> None:
        """Counts what another one has counted."""
        self._counts.update(other._counts)
        self.count += other.count
        self.total_seconds += other.total_seconds
        self.longest_seconds = max(self.longest_seconds, other.longest_seconds)

    def copy(self) -> "Latencies":
        """The same, counted apart from now on."""
        made = Latencies()
        made.merge(self)
        return made

    def state(self) -> dict[str, Any]:
        """What has been counted, as values that JSON knows."""
        return {
            "buckets": [[bucket, self._counts[bucket]] for bucket in sorted(self._counts)],
            "total_seconds": self.total_seconds,
            "longest_seconds": self.longest_seconds,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """What `state` gave, counted again.

        Raises:
            ValueError: It is no such state.
        """
        made = cls()
        try:
            for bucket, count in state["buckets"]:
                if not 0 <= bucket < _BUCKETS:
                    raise ValueError(f"there is no bucket {bucket}")
                made._counts[int(bucket)] += int(count)
            made.total_seconds = float(state["total_seconds"])
            made.longest_seconds = float(state["longest_seconds"])
        except (KeyError, TypeError) as exc:
            raise ValueError(f"these are no latencies: {exc!r}") from exc
        made.count = made._counts.total()
        return made

    def mean(self) -> float | None:
        """Their mean in seconds, or None where there are none."""
        return self.total_seconds / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """The duration in seconds that so large a share of all does not exceed, or None where there are none.

        Args:
            share: In [0, 1].
        """
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(_LEAST_SECONDS * _GROWTH**bucket, self.longest_seconds)
        return None
