"""Loads on a machine whose time stands still until it is told to pass: what is sent when, and what is counted."""

import heapq
import itertools
import statistics

import pytest
from google.rpc import code_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.client.fake_server import status

from retinue_client import ImageError, InvalidRequestError, OverloadedError, UnavailableError
from retinue_client._bench.driver import Driver, Rules
from retinue_client._bench.load import ClosedLoop, OpenLoop, Window, arrivals
from retinue_client._bench.reply import reader
from retinue_client._bench.requests import Prepared
from retinue_client._bench.tally import Tally

START = 1000.0


def reply(answered=1, failed=0, refused=0, batch_size=4):
    """The bytes of a reply about so many images."""
    timing = pb.Timing(
        decode_us=1000,
        queue_us=2000,
        inference_us=4000,
        postprocess_us=500,
        total_us=8000,
        batch_size=batch_size,
    )
    response = pb.ClassifyResponse(model="m", version=1)
    for _ in range(answered):
        response.outcomes.add(result=pb.Classification(), timing=timing)
    for _ in range(failed):
        response.outcomes.add(error=status(code_pb2.INVALID_ARGUMENT, "No image.", "IMAGE_UNDECODABLE"))
    for _ in range(refused):
        response.outcomes.add(error=status(code_pb2.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL"))
    return response.SerializeToString()


REPLY = reply()


class Machine:
    """A clock, and the way to a server that takes a time of its own for every answer.

    Attributes:
        sent: When each request was sent.
        answer: Says of the number of a request and of when it was sent in how many seconds which answer comes; None for
            an answer that never comes.
    """

    def __init__(self, answer):
        self.time = START
        self.answer = answer
        self.sent = []
        self.bodies = []
        self.abandoned = False
        self._events = []
        self._number = itertools.count()

    def now(self):
        return self.time

    def cpu(self):
        return self.time / 2

    def wake(self):
        pass

    def sleep(self, seconds):
        """Lets time pass, up to the next answer at most."""
        assert seconds > 0
        until = self.time + seconds
        if self._events and self._events[0][0] <= until:
            self.time, _, done, answer = heapq.heappop(self._events)
            done(answer)
        else:
            self.time = until

    def send(self, body, done):
        number = len(self.sent)
        self.sent.append(self.time)
        self.bodies.append(body)
        after_seconds, answer = self.answer(number, self.time)
        if answer is not None:
            heapq.heappush(self._events, (self.time + after_seconds, next(self._number), done, answer))

    def abandon(self):
        self.abandoned = True

    def drive(
        self, load, *, seconds=10.0, warm_up=0.0, images=1, max_in_flight=1000, within=1.0, seed=0, go_on=None
    ):
        """What is counted of a load, and the last pulse."""
        total, pulses = Tally(), []

        def report(pulse):
            total.merge(pulse.tally)
            pulses.append(pulse)
            return go_on is None or go_on(self)

        window = Window(START, START + warm_up, START + warm_up + seconds, 0.5)
        requests = [Prepared(b"first", images), Prepared(b"second", images)]
        rules = Rules(max_in_flight, within, drain_seconds=5.0)
        Driver(self, requests, reader("classify"), load, window, rules, seed, self).run(report)
        assert self.abandoned
        return total, pulses[-1]


class BusyMachine(Machine):
    """One on which a look at the clock takes time."""

    def now(self):
        self.time += 0.001
        return self.time


def always(seconds, answer=REPLY):
    return lambda number, now: (seconds, answer)


def fates(counts):
    return counts.answered + counts.refused + counts.failed + counts.unfinished


class TestArrivals:
    def test_they_are_as_many_as_asked_for_and_the_gaps_are_exponential(self):
        moments = list(arrivals(200.0, START, START + 100, seed=1))
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        assert moments[0] > START
        assert moments[-1] < START + 100
        assert len(moments) == pytest.approx(20_000, rel=0.03)
        assert statistics.mean(gaps) == pytest.approx(1 / 200, rel=0.03)
        assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.05)

    def test_the_same_seed_gives_the_same_moments_and_another_one_others(self):
        first, again, other = (list(arrivals(50.0, 0.0, 10.0, seed)) for seed in (7, 7, 8))
        assert first == again
        assert first != other


class TestClosedLoop:
    @pytest.mark.parametrize("seconds", [1.0, 1.001, 1.002, 1.003, 1.004])
    def test_whatever_is_sent_counts_also_where_the_end_comes_meanwhile(self, seconds):
        machine = BusyMachine(always(0.0))
        tally, _ = machine.drive(ClosedLoop(2), seconds=seconds)
        assert tally.requests.sent == len(machine.sent) > 50

    def test_each_caller_asks_again_when_it_has_its_answer(self):
        machine = Machine(always(0.25))
        tally, _ = machine.drive(ClosedLoop(3))
        assert machine.sent[:6] == [START] * 3 + [START + 0.25] * 3
        assert tally.requests.sent == tally.requests.answered == 3 * 40
        assert tally.latencies.percentile(0.5) == pytest.approx(0.25, rel=0.01)
        assert tally.latencies.longest_seconds == 0.25
        assert set(machine.bodies) == {b"first", b"second"}

    def test_what_warms_up_is_not_counted(self):
        machine = Machine(lambda number, now: (1.0 if now < START + 2 else 0.1, REPLY))
        tally, last = machine.drive(ClosedLoop(1), warm_up=2.0, seconds=1.0)
        assert tally.requests.sent == tally.latencies.count == 10
        assert tally.latencies.longest_seconds == pytest.approx(0.1)
        assert last.cpu_seconds == pytest.approx(0.5)

    def test_who_is_refused_comes_back_when_the_server_advises(self):
        refusal = OverloadedError("Full.", reason="QUEUE_FULL", retry_after_seconds=2.0)
        machine = Machine(lambda number, now: (0.5, refusal if number == 0 else REPLY))
        tally, _ = machine.drive(ClosedLoop(1), seconds=4.0)
        assert machine.sent == [START, START + 2.5, START + 3.0, START + 3.5]
        assert (tally.requests.refused, tally.requests.answered, tally.requests.failed) == (1, 3, 0)
        assert tally.reasons == {"QUEUE_FULL": 1}

    def test_a_server_that_comes_back_within_seconds_is_not_given_up(self):
        lost = UnavailableError("Gone.", reason="CONNECTION_LOST")
        machine = Machine(lambda number, now: (0.1, lost if START + 2 <= now < START + 6 else REPLY))
        tally, last = machine.drive(ClosedLoop(2))
        assert last.lost is None
        assert machine.sent[-1] > START + 9
        assert tally.requests.failed == tally.reasons["CONNECTION_LOST"] > 2

    def test_a_server_that_stays_away_ends_the_load(self):
        lost = UnavailableError("Nobody is there: start one.", reason="SERVER_UNREACHABLE")
        machine = Machine(lambda number, now: (0.01, REPLY if now < START + 2 else lost))
        tally, last = machine.drive(ClosedLoop(2), seconds=60.0)
        assert last.lost == "Nobody is there: start one."
        assert START + 7 <= last.ended_at < START + 8
        assert tally.requests.sent < 400 + 2 * 5 / 0.1 + 10
        assert fates(tally.requests) == tally.requests.sent


class TestOpenLoop:
    def test_requests_are_sent_when_they_are_due_whatever_becomes_of_those_before(self):
        machine = Machine(always(3.0))
        tally, _ = machine.drive(OpenLoop(20.0), seed=5)
        assert machine.sent == list(arrivals(20.0, START, START + 10.0, seed=5))
        assert tally.lateness.longest_seconds == 0
        assert tally.requests.answered == len(machine.sent)

    def test_the_time_that_a_request_waits_to_be_sent_is_part_of_its_latency(self):
        """A server that stands still for two seconds is charged with every request that was due in them."""
        stall = (START + 4, START + 6)

        def answer(number, now):
            return (stall[1] - now if stall[0] <= now < stall[1] else 0.001), REPLY

        machine = Machine(answer)
        tally, _ = machine.drive(OpenLoop(100.0), max_in_flight=1)
        due = list(arrivals(100.0, START, START + 10, seed=0))
        in_stall = [moment for moment in due if stall[0] <= moment < stall[1]]
        assert tally.requests.sent == len(due)
        assert tally.was_full
        # One request met the stall, but all that were due in it had to wait for its end.
        assert tally.latencies.longest_seconds == pytest.approx(stall[1] - in_stall[0], rel=0.01)
        share_in_stall = len(in_stall) / len(due)
        assert tally.latencies.percentile(1 - share_in_stall / 2) == pytest.approx(1.0, rel=0.15)

    def test_what_could_not_be_sent_is_counted_as_never_sent(self):
        machine = Machine(always(1.0, reply(3)))
        tally, _ = machine.drive(OpenLoop(10.0), images=3, max_in_flight=2)
        due = len(list(arrivals(10.0, START, START + 10, seed=0)))
        assert tally.requests.sent + tally.requests.unsent == due
        assert tally.requests.unsent > 0
        assert tally.images.unsent == 3 * tally.requests.unsent
        assert tally.latencies.longest_seconds > 4

    def test_a_backlog_of_warming_up_is_left_behind(self):
        machine = Machine(lambda number, now: (1.0 if now < START + 5 else 0.001, REPLY))
        tally, _ = machine.drive(OpenLoop(20.0), warm_up=5.0, seconds=5.0, max_in_flight=1)
        due = [moment for moment in arrivals(20.0, START, START + 10, seed=0) if moment >= START + 5]
        assert tally.requests.sent == len(due)
        assert tally.latencies.longest_seconds < 1.1


class TestCounting:
    def test_every_request_that_was_sent_is_counted_once(self):
        """With answers, refusals, failures and silence in turns, at more than the server can do."""
        outcomes = [
            REPLY,
            OverloadedError("Full.", reason="QUEUE_FULL"),
            InvalidRequestError("No.", reason="INVALID_REQUEST"),
            UnavailableError("Gone.", reason="CONNECTION_LOST"),
            b"\xff no message",
            reply(answered=2),
            None,
        ]
        for load in (OpenLoop(50.0), ClosedLoop(40)):
            machine = Machine(lambda number, now: (0.3, outcomes[number % len(outcomes)]))
            tally, last = machine.drive(load, seconds=5.0)
            numbers = [number % len(outcomes) for number in range(len(machine.sent))]
            assert tally.requests.sent == len(machine.sent)
            assert tally.requests.answered == numbers.count(0)
            assert tally.requests.refused == numbers.count(1)
            assert tally.requests.failed == sum(numbers.count(kind) for kind in (2, 3, 4, 5))
            assert tally.requests.unfinished == last.in_flight == numbers.count(6)
            assert fates(tally.requests) == tally.requests.sent
            assert tally.reasons["RESPONSE_INVALID"] == numbers.count(4) + numbers.count(5)

    def test_images_are_counted_one_by_one_and_requests_by_the_best_of_theirs(self):
        answers = [reply(2, 1, 1), reply(0, 3, 1), reply(0, 0, 4), reply(4)]
        machine = Machine(lambda number, now: (0.1, answers[number % 4]))
        tally, _ = machine.drive(ClosedLoop(1), seconds=0.75, images=4)
        assert (tally.requests.sent, tally.requests.answered) == (8, 4)
        assert (tally.requests.refused, tally.requests.failed) == (2, 2)
        assert (tally.images.answered, tally.images.refused, tally.images.failed) == (12, 12, 8)
        assert tally.reasons == {"QUEUE_FULL": 12, "IMAGE_UNDECODABLE": 8}
        assert tally.messages["IMAGE_UNDECODABLE"] == "No image."
        assert tally.latencies.count == 4

    def test_the_servers_times_are_added_up_and_a_batch_is_as_much_as_its_images(self):
        answers = [reply(batch_size=1), reply(batch_size=4)]
        machine = Machine(lambda number, now: (0.1, answers[number % 2]))
        tally, _ = machine.drive(ClosedLoop(1), seconds=0.95)
        server = tally.server
        assert (server.images, server.queue_us, server.total_us) == (10, 20_000, 80_000)
        assert server.batches == 5 * 1 + 5 / 4

    def test_throughput_is_what_comes_back_in_the_window_and_goodput_what_is_not_late(self):
        machine = Machine(lambda number, now: (0.4 if number % 2 else 0.2, REPLY))
        tally, _ = machine.drive(ClosedLoop(1), warm_up=0.1, seconds=6.0, within=0.3)
        # The first was sent while warming up and answered in the window; the last was answered after it.
        assert tally.requests.sent == 20
        assert tally.in_window == 20
        assert tally.on_time == 10
        assert sum(part.answered for part in tally.slices.values()) == 20

    def test_answers_are_awaited_for_a_while(self):
        machine = Machine(lambda number, now: (4.0 if number else None, REPLY if number else None))
        tally, last = machine.drive(OpenLoop(5.0), seconds=2.0)
        assert tally.requests.unfinished == last.in_flight == 1
        assert tally.requests.answered == len(machine.sent) - 1
        assert machine.time == START + 2.0 + 5.0

    def test_a_load_that_is_stopped_tells_what_was_counted_so_far(self):
        machine = Machine(always(0.25))
        tally, last = machine.drive(ClosedLoop(2), go_on=lambda machine: machine.time < START + 3)
        assert last.ended_at == pytest.approx(START + 3, abs=0.5)
        assert tally.requests.sent == len(machine.sent)
        assert tally.requests.unfinished == 2
        assert tally.requests.answered == len(machine.sent) - 2

    def test_a_fault_of_the_reader_is_raised_and_no_caller_waits_for_ever(self):
        machine = Machine(always(0.1))
        window = Window(START, START, START + 5, 0.5)
        rules = Rules(10, 1.0, 1.0)

        def broken(data, images):
            raise ZeroDivisionError

        driver = Driver(machine, [Prepared(b"", 1)], broken, ClosedLoop(1), window, rules, 0, machine)
        with pytest.raises(ZeroDivisionError):
            driver.run(lambda pulse: True)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_a_load_without_rest(processes):
    closed = [ClosedLoop(7).share(index, processes).concurrency for index in range(processes)]
    opened = [OpenLoop(90.0).share(index, processes).rate for index in range(processes)]
    assert sum(closed) == 7
    assert max(closed) - min(closed) <= 1
    assert sum(opened) == pytest.approx(90.0)


def test_tallies_of_several_processes_merge_into_that_of_all():
    tallies = []
    for seconds in (0.1, 0.5):
        tally, _ = Machine(always(seconds)).drive(ClosedLoop(1), seconds=4.95)
        tallies.append(tally)
    both = Tally()
    for tally in tallies:
        both.merge(tally)
    assert both.requests.answered == 50 + 10
    assert both.latencies.percentile(0.5) == pytest.approx(0.1, rel=0.01)
    assert both.latencies.longest_seconds == 0.5
    assert both.slices[1].answered == tallies[0].slices[1].answered + tallies[1].slices[1].answered
    assert both.images == type(both.images)(sent=60, answered=60)


def test_an_image_error_is_of_the_image_and_not_of_the_server():
    assert reader("classify")(reply(1, 1), 2).errors[0].reason == "IMAGE_UNDECODABLE"
    assert isinstance(reader("classify")(reply(0, 1), 1).errors[0], ImageError)
