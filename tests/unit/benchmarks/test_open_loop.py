"""What is made of the fates of the open loop's requests."""

import pytest
from benchmarks import open_loop
from benchmarks.open_loop import Fate, Order

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8
ORDER = Order("host:1", "/a/b", "body", rate_per_second=10, warming_seconds=1, seconds=4, timeout_ms=1000)


def fate(status: int | None, seconds: float = 0.1) -> Fate:
    return Fate(due=0.0, status=status, seconds=seconds)


def test_goodput_is_what_was_answered_in_time() -> None:
    fates = [fate(OK, 0.2), fate(OK, 0.4), fate(OK, 1.001), fate(RESOURCE_EXHAUSTED), fate(None)]

    outcome = open_loop.summary(fates, ORDER, 0.0)

    assert outcome.goodput_per_second == 2 / 4
    assert outcome.p99_ms == pytest.approx(400)
    assert outcome.offered_per_second == 5 / 4


def test_refusals_have_latencies_of_their_own() -> None:
    fates = [*[fate(OK, 0.5)] * 3, fate(RESOURCE_EXHAUSTED, 0.002)]

    outcome = open_loop.summary(fates, ORDER, 0.0)

    assert outcome.refused_share == 0.25
    assert outcome.refusal_p50_ms == outcome.refusal_p99_ms == pytest.approx(2)
    assert outcome.p50_ms == pytest.approx(500)


def test_every_status_is_told_by_name() -> None:
    fates = [fate(OK), fate(OK, 1.5), fate(DEADLINE_EXCEEDED), fate(open_loop.http2.RESET), fate(None)]

    outcome = open_loop.summary(fates, ORDER, 0.0)

    assert outcome.statuses == dict.fromkeys(("OK", "LATE", "DEADLINE_EXCEEDED", "RESET", "UNANSWERED"), 0.2)


def test_where_nothing_was_answered_nothing_is_made_up() -> None:
    outcome = open_loop.summary([fate(RESOURCE_EXHAUSTED)], ORDER, 0.0)

    assert (outcome.goodput_per_second, outcome.p50_ms, outcome.p99_ms) == (0, 0, 0)


def test_how_late_the_client_sent_is_told() -> None:
    fates = [Fate(due=0.0, late_seconds=0.003, status=OK, seconds=0.1) for _ in range(200)]

    assert open_loop.summary(fates, ORDER, 0.25).late_p99_ms == pytest.approx(3)
