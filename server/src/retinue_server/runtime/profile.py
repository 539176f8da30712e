"""Measures, when a model is loaded, which batch size gives the most images a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# The smallest batch within this share of the best rate is kept: a larger one only adds latency and memory.
_WORTH_IT = 0.97
_LARGEST_BATCH = {False: 16, True: 128}
_MOST_RUNS = 3
_ENOUGH_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Profile:
    """What a network costs here.

    Attributes:
        max_batch_size: The largest batch worth running.
        images_per_second: One instance's rate at that batch, decoding not counted.
    """

    max_batch_size: int
    images_per_second: float


def measure(
    run: Callable[[npt.NDArray[np.uint8]], object],
    image_shape: tuple[int, int, int],
    *,
    on_gpu: bool,
    budget_seconds: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Runs batches of 1, 2, 4, ... until they stop paying or the budget is spent. Warms the network on the way.

    Args:
        run: Runs the network on uint8 [N,H,W,C].
        image_shape: H, W, C.
        on_gpu: Whether large batches are likely to pay.
        budget_seconds: After so long no larger batch is tried; the first run of a size, in which a GPU's libraries
            choose their kernels, does not count.
        clock: Seconds; a test may drive it.
    """
    noise = np.random.default_rng(0)
    rates: dict[int, float] = {}
    spent = 0.0
    size = 1
    while size <= _LARGEST_BATCH[on_gpu]:
        images = noise.integers(0, 256, (size, *image_shape), dtype=np.uint8)
        durations = _seconds(run, images, clock)
        rates[size] = size / max(min(durations), 1e-9)
        best = max(rates.values())
        spent += sum(durations)
        # The next size costs about twice all this one did; two sizes in a row without gain mean the peak is behind.
        if spent > budget_seconds or (size >= 4 and max(rates[size], rates[size // 2]) < best):
            break
        size *= 2
    best = max(rates.values())
    chosen = min(size for size, rate in rates.items() if rate >= _WORTH_IT * best)
    return Profile(max_batch_size=chosen, images_per_second=rates[chosen])


def _seconds(
    run: Callable[[npt.NDArray[Any]], object], images: npt.NDArray[np.uint8], clock: Callable[[], float]
) -> list[float]:
    """What a few runs take, fewer of long ones: other work on the machine only ever makes a run slower."""
    run(images)
    durations: list[float] = []
    while len(durations) < _MOST_RUNS and sum(durations) < _ENOUGH_SECONDS:
        began = clock()
        run(images)
        durations.append(clock() - began)
    return durations
