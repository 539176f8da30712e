"""What an item of a model costs, as measured of late."""

import math

# A new measurement of the cost of an item moves the estimate by this share, and counts as at most this many times the
# estimate: one huge image must not make the queue look long.
_COST_SMOOTHING = 0.1
_MOST_TIMES_ESTIMATE = 10


class ItemCost:
    """An estimate that each batch moves.

    Args:
        seconds: The first one.

    Attributes:
        seconds: The estimate.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._fastest_seconds = math.inf

    def learn(self, seconds: float) -> None:
        """Moves the estimate by what an item of a batch took."""
        self._fastest_seconds = min(self._fastest_seconds, seconds)
        counted = min(seconds, _MOST_TIMES_ESTIMATE * self.seconds)
        self.seconds += _COST_SMOOTHING * (counted - self.seconds)

    def of_next(self, *, idle: bool) -> float:
        """What an item will cost; with an idle engine the least it ever did, since a guess must refuse nothing."""
        if not idle:
            return self.seconds
        return 0.0 if math.isinf(self._fastest_seconds) else self._fastest_seconds
