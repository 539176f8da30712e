"""Measures, when a model is loaded, which batch size gives the most images a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# The smallest batch within this share of the best rate is kept: a larger one only adds latency and memory.
_WORTH_IT = 0.97
_LARGEST_BATCH = {False: 32, True: 128}
# What the engine does around each run, whatever the network: its queue's lock, a turn at the interpreter's, and the
# calls into NumPy and ONNX Runtime, see docs/performance.md. For networks of microseconds that is most of the time.
_AROUND_A_RUN_SECONDS = 0.0001
_MOST_RUNS = 3
_ENOUGH_SECONDS = 0.02
_LONGEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What a network costs here.

    Attributes:
        batch_sizes: The sizes that were run, from 1 up to the largest worth running.
        images_per_second: One instance's rate at the largest, decoding not counted.
        lone_seconds: What one image takes that has the machine to itself, decoding not counted; 0 if not measured.
        alone_on_all_cores: Whether it is to take all cores then.
    """

    batch_sizes: tuple[int, ...]
    images_per_second: float
    lone_seconds: float = 0.0
    alone_on_all_cores: bool = False

    @property
    def max_batch_size(self) -> int:
        """The largest batch worth running."""
        return self.batch_sizes[-1]


def measure(
    run: Callable[[npt.NDArray[np.uint8]], object],
    image_shape: tuple[int, int, int],
    *,
    on_gpu: bool,
    budget_seconds: float = 0.1,
    around_seconds: float = _AROUND_A_RUN_SECONDS,
    on_refusal: Callable[[int, Exception], None] = lambda _size, _error: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Runs batches of 1, 2, 4, ... until they stop paying or the budget is spent. Warms the network on the way.

    Args:
        run: Runs the network on uint8 [N,H,W,C].
        image_shape: H, W, C.
        on_gpu: Whether large batches are likely to pay.
        budget_seconds: After so long no larger batch is tried. The first run of a size, in which a GPU's libraries
            choose their kernels, does not count, unless these take minutes together.
        around_seconds: What each run costs beside the network.
        on_refusal: Told of a batch size that the network cannot run, and why.
        clock: Seconds; a test may drive it.

    Raises:
        Exception: The network cannot run one image. A larger batch that it cannot run only ends the trying.
    """
    noise = np.random.default_rng(0)
    began = clock()
    seconds: dict[int, float] = {}
    rates: dict[int, float] = {}
    spent = 0.0
    size = 1
    while size <= _LARGEST_BATCH[on_gpu]:
        images = noise.integers(0, 256, (size, *image_shape), dtype=np.uint8)
        try:
            durations = _seconds(run, images, clock)
        except Exception as error:
            if size == 1:
                raise
            # Such as too little memory on a GPU.
            on_refusal(size, error)
            break
        seconds[size] = min(durations)
        rates[size] = size / max(seconds[size] + around_seconds, 1e-9)
        spent += sum(durations)
        best = max(rates.values())
        # The next size costs about twice all this one did; two sizes in a row without gain mean the peak is behind.
        if (
            spent > budget_seconds
            or clock() - began > _LONGEST_SECONDS
            or (size >= 4 and max(rates[size], rates[size // 2]) < best)
        ):
            break
        size *= 2
    best = max(rates.values())
    chosen = min(size for size, rate in rates.items() if rate >= _WORTH_IT * best)
    sizes = tuple(size for size in rates if size <= chosen)
    return Profile(sizes, chosen / max(seconds[chosen], 1e-9), lone_seconds=seconds[1])


def fastest_seconds(
    run: Callable[[npt.NDArray[np.uint8]], object], images: npt.NDArray[np.uint8], rounds: int
) -> float:
    """What the fastest of some runs takes, after one that does not count."""
    run(images)
    durations = []
    for _ in range(rounds):
        began = time.perf_counter()
        run(images)
        durations.append(time.perf_counter() - began)
    return min(durations)


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
