"""When requests come that nobody paces: a Poisson process."""

import numpy as np


def poisson(rate_per_second: float, seconds: float, seed: int) -> list[float]:
    """The moments of arrivals, in seconds from the beginning, ascending, all before `seconds`.

    Args:
        rate_per_second: How many come in a second on average.
        seconds: For how long.
        seed: The same gives the same moments.

    Source: the gaps of a Poisson process are exponentially distributed and independent.
    """
    random = np.random.default_rng(seed)
    expected = rate_per_second * seconds
    # Six standard deviations more than are expected.
    gaps = random.exponential(1 / rate_per_second, int(expected + 6 * expected**0.5 + 10))
    moments = np.cumsum(gaps)
    return [float(moment) for moment in moments[moments < seconds]]
