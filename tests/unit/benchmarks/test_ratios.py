"""What stands beside the roofline."""

import pytest
from benchmarks import ratios
from benchmarks.ceiling import Measurement, Setting
from benchmarks.served import Served

CEILING = Measurement(Setting(1, 2, 1, False, 1), 200.0, 0.010, 10.0)


def test_what_the_client_took_is_deducted_from_the_roofline() -> None:
    served = Served(180.0, 0.011, 5.0, 9.0, client_share=0.05)

    row = ratios.beside(served, CEILING)

    assert row["rate_ratio"] == pytest.approx(180 / (200 * 0.95))
    assert row["cpu_ratio"] == pytest.approx(1.1)
    assert row["p99_ms"] == 9.0


def test_a_round_that_was_disturbed_does_not_count() -> None:
    rows = [{"a": 1.0, "b": 5.0}, {"a": 100.0, "b": 4.0}, {"a": 2.0, "b": 6.0}]

    assert ratios.medians(rows) == {"a": 2.0, "b": 5.0}
