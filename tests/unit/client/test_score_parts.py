import random

import pytest

from retinue_client._score.latency import Latencies
from retinue_client._score.pace import Pace, Ticket


class TestPace:
    now = 0.0

    def pace(self, start=16, maximum=1000):
        return Pace(start=start, maximum=maximum, clock=lambda: self.now)

    def test_it_lets_so_many_images_through_and_further_ones_when_some_have_ended(self):
        pace = self.pace()
        first = pace.begin(10)
        assert pace.seconds_until_free(6) == 0
        assert pace.seconds_until_free(7) is None
        pace.begin(6)
        assert pace.seconds_until_free(1) is None
        pace.end(first)
        assert (pace.under_way, pace.seconds_until_free(10)) == (6, 0)

    def test_a_request_of_more_than_the_limit_goes_alone(self):
        pace = self.pace()
        assert pace.seconds_until_free(50) == 0
        pace.begin(1)
        assert pace.seconds_until_free(50) is None

    def test_it_doubles_with_every_round_until_the_first_refusal_and_then_grows_by_a_few_a_round(self):
        pace = self.pace()
        for _ in range(4):
            pace.answered(Ticket(4, 0), 0.0)
        assert pace.limit == 32
        pace.refused(pace.begin(4), 0.0)
        assert pace.limit == 16
        for _ in range(4):
            pace.answered(Ticket(4, 1), 0.0)
        assert 22 <= pace.limit <= 24

    def test_it_grows_no_more_where_images_wait_long_enough_and_shrinks_where_they_wait_long(self):
        pace = self.pace()
        for _ in range(10):
            pace.answered(Ticket(4, 0), 0.3)
        assert pace.limit == 16
        for _ in range(4):
            pace.answered(Ticket(4, 0), 1.5)
        assert 5 <= pace.limit <= 9
        for _ in range(1000):
            pace.answered(Ticket(1, 0), 1.5)
        assert pace.limit == 2

    def test_it_never_exceeds_its_maximum_nor_falls_below_two(self):
        pace = self.pace(maximum=20)
        for _ in range(50):
            pace.answered(Ticket(4, 0), 0.0)
        assert pace.limit == 20
        for _ in range(50):
            ticket = pace.begin(1)
            pace.refused(ticket, 0.0)
            pace.end(ticket)
        assert pace.limit == 2
        assert self.pace(maximum=1).limit == 1

    def test_refusals_of_one_overload_slow_it_down_once(self):
        pace = self.pace()
        tickets = [pace.begin(2) for _ in range(8)]
        for ticket in tickets:
            pace.refused(ticket, 0.0)
        assert pace.limit == 8

    def test_it_waits_as_long_as_the_server_wants_to_be_left_alone(self):
        pace = self.pace()
        ticket = pace.begin(1)
        pace.refused(ticket, 2.0)
        pace.end(ticket)
        assert pace.seconds_until_free(1) == pytest.approx(2.0)
        self.now += 1.5
        assert pace.seconds_until_free(1) == pytest.approx(0.5)
        self.now += 1.5
        assert pace.seconds_until_free(1) == 0


class TestLatencies:
    def test_percentiles_are_right_to_two_percent(self):
        rng = random.Random(1)
        values = [rng.lognormvariate(-3, 1) for _ in range(5000)]
        latencies = Latencies()
        for value in values:
            latencies.add(value)
        values.sort()
        for share in (0.01, 0.5, 0.9, 0.99, 1.0):
            exact = values[max(0, round(share * len(values)) - 1)]
            assert latencies.percentile(share) == pytest.approx(exact, rel=0.03)

    def test_counts_weigh_and_extremes_have_a_place(self):
        latencies = Latencies()
        assert latencies.percentile(0.5) is None
        latencies.add(0.001, count=99)
        latencies.add(1e9)
        latencies.add(0.0)
        assert latencies.percentile(0.5) == pytest.approx(0.001, rel=0.03)
