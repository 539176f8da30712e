"""Percentiles of any number of durations in a fixed amount of memory."""

import math

# Neighbouring buckets differ by 2 percent, which is then the precision of a percentile.
_GROWTH = 1.02
_LEAST_SECONDS = 1e-5
_BUCKETS = 1200


class Latencies:
    """Counts durations in buckets whose bounds grow geometrically, from ten microseconds to days."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts a duration, as often as `count`."""
        bucket = math.ceil(math.log(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS, _GROWTH))
        self._counts[min(bucket, _BUCKETS - 1)] += count
        self._total += count

    def percentile(self, share: float) -> float | None:
        """The duration in seconds that so large a share of all does not exceed, or None where there are none.

        Args:
            share: In [0, 1].
        """
        wanted = max(1, math.ceil(share * self._total))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return float(_LEAST_SECONDS * _GROWTH**bucket)
        return None
