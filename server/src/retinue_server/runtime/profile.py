"""Measures, when a model is loaded, which batch size gives the most images a second."""

import math
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter

# The smallest batch within this share of the best rate is kept: a larger one only adds latency and memory.
_WORTH_IT = 0.97
_LARGEST_BATCH = {False: 32, True: 128}
# What the engine does around each run, whatever the network: its queue's lock, a turn at the interpreter's, and the
# calls into NumPy and ONNX Runtime, see docs/performance.md. For networks of microseconds that is most of the time.
_AROUND_A_RUN_SECONDS = 0.0001
_MOST_RUNS = 3
_ENOUGH_SECONDS = 0.02
_LONGEST_SECONDS = 60.0
# What a clock can tell apart.
_LEAST_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class Profile:
    """What a network costs here.

    Attributes:
        batch_sizes: The sizes that were run, from 1 up to the largest worth running.
        batch_seconds: What a batch of each takes an instance, decoding not counted.
        lone_seconds: What one image takes that has the machine to itself, decoding not counted.
        alone_on_all_cores: Whether it is to take all cores then.
        instances: How many batches are to run at once under load; 0 for as many as the engine has threads.
        all_cores: Whether each of them takes all cores.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    batch_sizes: tuple[int, ...]
    batch_seconds: tuple[float, ...]
    lone_seconds: float
    alone_on_all_cores: bool = False
    instances: int = 0
    all_cores: bool = False

    @classmethod
    def parse(cls, told: object) -> "Profile":
        """Makes one of what a file says.

        Raises:
            ValueError: It says something else.
        """
        profile = _PROFILES.validate_python(told)
        sizes = profile.batch_sizes
        seconds = (*profile.batch_seconds, profile.lone_seconds)
        if (
            not sizes
            or sizes[0] != 1
            or list(sizes) != sorted(set(sizes))
            or len(sizes) != len(profile.batch_seconds)
        ):
            raise ValueError(f"batch sizes of {sizes}")
        if not all(0 <= one < math.inf for one in seconds) or profile.instances < 0:
            raise ValueError(f"{profile}")
        return profile

    @property
    def max_batch_size(self) -> int:
        """The largest batch worth running."""
        return self.batch_sizes[-1]

    @property
    def images_per_second(self) -> float:
        """One instance's rate at the largest batch."""
        return self.max_batch_size / max(self.batch_seconds[-1], _LEAST_SECONDS)

    def within(self, goal_seconds: float) -> "Profile":
        """Leaves the batches out that would make images late, but for one of a single image.

        Args:
            goal_seconds: Within which nearly all images are to be answered. One that comes when a batch has just begun
                waits for it and then runs in one as large, so a batch may take half of this.
        """
        fitting = sum(seconds <= goal_seconds / 2 for seconds in self.batch_seconds) or 1
        return replace(
            self, batch_sizes=self.batch_sizes[:fitting], batch_seconds=self.batch_seconds[:fitting]
        )

    def only(self, sizes: Collection[int]) -> "Profile":
        """Leaves the batches of other sizes out."""
        kept = [pair for pair in zip(self.batch_sizes, self.batch_seconds, strict=True) if pair[0] in sizes]
        return replace(
            self,
            batch_sizes=tuple(size for size, _ in kept),
            batch_seconds=tuple(seconds for _, seconds in kept),
        )


_PROFILES = TypeAdapter(Profile)


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
        rates[size] = size / max(seconds[size] + around_seconds, _LEAST_SECONDS)
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
    return Profile(sizes, tuple(seconds[size] for size in sizes), lone_seconds=seconds[1])


def seconds_together(run: Callable[[], object], instances: int, budget_seconds: float) -> float:
    """What a run takes on average while several run at once, as they will under load.

    Args:
        run: Called from so many threads.
        instances: How many.
        budget_seconds: After so long no other is begun, but each has one that counts.
    """
    begin = threading.Barrier(instances)

    def work(_number: int) -> float:
        try:
            run()
        except BaseException:
            # The others would wait for this one for ever.
            begin.abort()
            raise
        begin.wait()
        began = time.perf_counter()
        runs = 0
        while runs == 0 or time.perf_counter() - began < budget_seconds:
            run()
            runs += 1
        return (time.perf_counter() - began) / runs

    with ThreadPoolExecutor(instances) as pool:
        return sum(pool.map(work, range(instances))) / instances


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
