"""Percentiles of any number of durations in a bounded amount of memory."""

import math
from collections import Counter

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
