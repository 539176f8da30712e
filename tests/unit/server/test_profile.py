import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from retinue_server.runtime.profile import Profile, measure, seconds_together

SHAPE = (4, 6, 3)


class Network:
    """Takes as long as a cost says, on a clock that nothing else moves."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self._cost = cost
        self.now = 100.0
        self.sizes: list[int] = []
        self.most = 1000

    def run(self, images: npt.NDArray[np.uint8]) -> None:
        if len(images) > self.most:
            raise MemoryError
        assert images.dtype == np.uint8
        assert images.shape[1:] == SHAPE
        assert images.flags.c_contiguous
        self.sizes.append(len(images))
        self.now += self._cost(len(images))

    def clock(self) -> float:
        return self.now


def measured(network: Network, *, on_gpu: bool = False) -> Profile:
    return measure(network.run, SHAPE, on_gpu=on_gpu, around_seconds=0, clock=network.clock)


@pytest.mark.parametrize(
    ("cost", "chosen"),
    [
        # No batch is better than another: the smallest.
        (lambda size: 0.001 * size, 1),
        # Many at once take hardly longer than one.
        (lambda size: 0.001 + 0.00001 * size, 32),
        # Beyond four it gets worse.
        (lambda size: 0.001 * (1 + 0.1 * size + 0.5 * max(0, size - 4)), 4),
        # 8 gives 3 % more than 4: not worth it.
        (lambda size: {1: 0.001, 2: 0.0015, 4: 0.002, 8: 0.004 / 1.029, 16: 0.1, 32: 1}[size], 4),
        # 8 gives 4 % more than 4.
        (lambda size: {1: 0.001, 2: 0.0015, 4: 0.002, 8: 0.004 / 1.04, 16: 0.1, 32: 1}[size], 8),
    ],
)
def test_the_smallest_batch_within_3_percent_of_the_best_rate_is_kept(
    cost: Callable[[int], float], chosen: int
) -> None:
    profile = measured(Network(cost))
    assert profile.max_batch_size == chosen
    assert profile.images_per_second == pytest.approx(chosen / cost(chosen))


def test_a_gpu_is_tried_with_larger_batches_than_a_cpu() -> None:
    def flat_cost(size: int) -> float:
        return 0.001

    assert measured(Network(flat_cost)).max_batch_size == 32
    assert measured(Network(flat_cost), on_gpu=True).max_batch_size == 128


def test_batches_of_a_tiny_network_are_as_large_as_what_is_around_each_run_asks_for() -> None:
    network = Network(lambda size: 0.00003 * size)
    profile = measure(network.run, SHAPE, on_gpu=False, around_seconds=0.0001, clock=network.clock)
    assert profile.max_batch_size == 32
    assert profile.images_per_second == pytest.approx(1 / 0.00003)
    assert profile.lone_seconds == pytest.approx(0.00003)


def test_trying_ends_when_two_sizes_in_a_row_bring_nothing() -> None:
    network = Network(lambda size: 0.001 * size * size)
    assert measured(network, on_gpu=True).max_batch_size == 1
    assert max(network.sizes) == 4


def test_one_size_without_gain_is_no_reason_to_end() -> None:
    network = Network(lambda size: {1: 0.001, 2: 0.0021, 4: 0.002, 8: 0.0035, 16: 0.006, 32: 0.02}[size])
    assert measured(network).max_batch_size == 16


def test_a_slow_network_is_not_tried_for_long() -> None:
    network = Network(lambda size: 0.2)
    assert measured(network) == Profile((1,), (pytest.approx(0.2),), lone_seconds=pytest.approx(0.2))
    assert set(network.sizes) == {1}


def test_a_long_run_is_not_repeated() -> None:
    network = Network(lambda size: 0.03 * size)
    assert measured(network).max_batch_size == 1
    assert network.sizes == [1, 1, 2, 2, 4, 4]  # one to warm up, one to measure


def test_the_first_run_of_a_size_does_not_count() -> None:
    network = Network(lambda size: 0.001 * size + (0.05 if size not in network.sizes[:-1] else 0))
    assert measured(network) == Profile((1,), (pytest.approx(0.001),), lone_seconds=pytest.approx(0.001))


def test_larger_batches_are_tried_however_long_the_first_run_of_each_takes() -> None:
    network = Network(lambda size: 0.001 + (3 if size not in network.sizes[:-1] else 0))
    assert measured(network, on_gpu=True).max_batch_size == 128


def test_first_runs_of_minutes_end_the_trying() -> None:
    network = Network(lambda size: 0.001 + (40 if size not in network.sizes[:-1] else 0))
    assert measured(network, on_gpu=True).batch_sizes == (1, 2)


def test_a_batch_that_does_not_fit_ends_the_trying() -> None:
    network = Network(lambda size: 0.001)
    network.most = 8
    refused: list[int] = []
    profile = measure(
        network.run,
        SHAPE,
        on_gpu=True,
        clock=network.clock,
        on_refusal=lambda size, _error: refused.append(size),
    )
    assert profile.batch_sizes == (1, 2, 4, 8)
    assert refused == [16]


def test_a_network_that_cannot_run_one_image_is_refused() -> None:
    network = Network(lambda size: 0.001)
    network.most = 0
    with pytest.raises(MemoryError):
        measured(network)


def test_a_run_that_was_disturbed_does_not_count() -> None:
    network = Network(lambda size: 0.001 * size * (3 if len(network.sizes) % 4 == 2 else 1))
    assert measured(network).images_per_second == pytest.approx(1000)


def test_a_network_faster_than_the_clock_can_tell_is_no_division_by_zero() -> None:
    assert measured(Network(lambda size: 0)).max_batch_size == 32


@pytest.mark.parametrize(
    ("goal_seconds", "sizes"), [(1.0, (1, 2, 4)), (0.008, (1, 2, 4)), (0.0079, (1, 2)), (0.0, (1,))]
)
def test_batches_that_would_take_more_than_half_of_the_goal_are_left_out(
    goal_seconds: float, sizes: tuple[int, ...]
) -> None:
    profile = Profile((1, 2, 4), (0.002, 0.003, 0.004), lone_seconds=0.001).within(goal_seconds)
    assert profile.batch_sizes == sizes
    assert profile.images_per_second == sizes[-1] / profile.batch_seconds[-1]


def test_runs_together_end_where_one_of_them_cannot_begin() -> None:
    fails = iter([False, True])

    def run() -> None:
        if next(fails):
            raise MemoryError("no room")

    with pytest.raises((MemoryError, threading.BrokenBarrierError)):
        seconds_together(run, 2, budget_seconds=0.0)


def test_what_is_left_of_the_sizes_keeps_its_seconds() -> None:
    profile = Profile((1, 2, 4), (0.002, 0.003, 0.004), lone_seconds=0.001).only((1, 4))
    assert (profile.batch_sizes, profile.batch_seconds) == ((1, 4), (0.002, 0.004))
