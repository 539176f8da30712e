"""Arrivals of the open loop: as many as are asked for, as irregular as a Poisson process, always the same."""

import numpy as np
import pytest
from benchmarks.arrivals import poisson


def test_as_many_come_as_the_rate_says() -> None:
    moments = poisson(200, 50, seed=1)

    # Five standard deviations.
    assert len(moments) == pytest.approx(10_000, abs=500)
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 50


def test_the_gaps_are_exponential() -> None:
    gaps = np.diff(poisson(200, 50, seed=1))

    # Mean and deviation of an exponential distribution are the same, and 1/e of it lies beyond.
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1, abs=0.05)
    assert np.mean(gaps > np.mean(gaps)) == pytest.approx(np.exp(-1), abs=0.02)


def test_a_seed_gives_the_same_moments_again() -> None:
    assert poisson(50, 2, seed=3) == poisson(50, 2, seed=3)
    assert poisson(50, 2, seed=3) != poisson(50, 2, seed=4)


def test_the_whole_time_is_filled_for_every_seed() -> None:
    for seed in range(200):
        assert poisson(20, 5, seed)[-1] > 3.5
