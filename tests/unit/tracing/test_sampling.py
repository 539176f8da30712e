import pytest

from retinue_server.tracing.sampling import Sampling
from retinue_server.tracing.spans import SpanContext

KEPT = SpanContext(1, 1, sampled=True, remote=True)
NOT_KEPT = SpanContext(1, 1, sampled=False, remote=True)


class Bench:
    """A sampling whose clock and chance a test drives."""

    def __init__(self, share: float = 0.5, callers_per_second: float = 2) -> None:
        self.now = 0.0
        self.chance = 0.9
        self.sampling = Sampling(
            share, callers_per_second, clock=lambda: self.now, chance=lambda: self.chance
        )

    def chosen(self, parent: SpanContext | None, count: int = 100) -> int:
        return sum(self.sampling.chooses(parent) for _ in range(count))


@pytest.mark.parametrize(
    ("share", "chance", "chosen"), [(0, 0, 0), (0.5, 0.49, 1), (0.5, 0.5, 0), (1, 0.99, 1)]
)
def test_calls_without_a_trace_are_chosen_by_chance(share: float, chance: float, chosen: int) -> None:
    bench = Bench(share)
    bench.chance = chance
    assert bench.chosen(None, 1) == chosen


def test_callers_decide_for_their_own_traces() -> None:
    bench = Bench(share=1)
    assert bench.chosen(NOT_KEPT) == 0
    assert Bench(share=0).chosen(KEPT, 1) == 1


def test_callers_that_keep_all_traces_get_a_few_a_second() -> None:
    bench = Bench(share=0.5)
    assert bench.chosen(KEPT) == 2
    bench.now = 0.5
    assert bench.chosen(KEPT) == 1
    bench.now = 3600
    assert bench.chosen(KEPT) == 2
    # Beyond that they are like any other call.
    bench.chance = 0.1
    assert bench.chosen(KEPT) == 100


def test_less_than_one_a_second_is_possible_and_none_is() -> None:
    bench = Bench(share=0, callers_per_second=0.1)
    assert bench.chosen(KEPT) == 1
    bench.now = 9
    assert bench.chosen(KEPT) == 0
    bench.now = 10.1
    assert bench.chosen(KEPT) == 1
    assert Bench(share=0, callers_per_second=0).chosen(KEPT) == 0
