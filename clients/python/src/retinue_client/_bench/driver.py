"""Sends what is due when it is due, and counts what becomes of it."""

import heapq
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retinue_client._bench.load import Load, OpenLoop, Window, arrivals
from retinue_client._bench.reply import Reply
from retinue_client._bench.requests import Prepared
from retinue_client._bench.tally import Tally
from retinue_client._bench.wire import Clock, Wire
from retinue_client._errors import OverloadedError, ResponseError, RetinueError, UnavailableError

_SECONDS_BETWEEN_REPORTS = 0.25
# A server that starts anew is back by then; one that is not is gone.
_PATIENCE_SECONDS = 5.0
# A caller of a closed loop that was refused comes back when the server advises; one that found nobody, after this.
_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for each load.

    Attributes:
        max_in_flight: In an open loop, no more requests are under way at once; what is due meanwhile is sent later.
        within_seconds: Requests answered within this time are on time.
        drain_seconds: How long to wait, at the end, for the answers that are still to come.
    """

    max_in_flight: int
    within_seconds: float
    drain_seconds: float


@dataclass(slots=True)
class Pulse:
    """What happened since the last one.

    Attributes:
        tally: What was counted since then.
        in_flight: Requests that are under way.
        cpu_seconds: Processor time that this process took from the start of what is counted until now, or its end.
        lost: Why there is no going on, or None.
        ended_at: When the last request was sent, or would have been; None while there is more to come.
    """

    tally: Tally
    in_flight: int
    cpu_seconds: float
    lost: str | None
    ended_at: float | None


class Driver:
    """One load from its first request to its last answer.

    In an open loop a request's latency counts from the moment at which it was due, so that a server that stands still
    for a second is charged with all that should have been asked in it (no coordinated omission). In a closed one it
    counts from when the request was sent.

    Args:
        wire: The way to the server.
        requests: What is sent, in turns; all are about as many images.
        read: Reads a reply to so many images, see `reader`.
        load: How hard to ask.
        window: When.
        rules: What else holds.
        seed: Of the arrivals, and where among the requests to begin.
        clock: The time.
    """

    def __init__(
        self,
        wire: Wire,
        requests: list[Prepared],
        read: Callable[[bytes, int], Reply],
        load: Load,
        window: Window,
        rules: Rules,
        seed: int,
        clock: Clock,
    ) -> None:
        self._wire = wire
        self._requests = requests
        self._read = read
        self._is_open = isinstance(load, OpenLoop)
        self._window = window
        self._rules = rules
        self._clock = clock
        self._positions = itertools.count(seed)
        self._arrivals: Iterator[float] = iter(())
        # When requests are due: in an open loop the next one, in a closed one those of the callers that wait.
        self._due: list[float] = []
        if isinstance(load, OpenLoop):
            self._arrivals = arrivals(load.rate, window.start, window.end, seed)
            self._due.extend(itertools.islice(self._arrivals, 1))
        else:
            self._due.extend([window.start] * load.concurrency)
        self._lock = threading.Lock()
        self._tally = Tally()
        self._under_way = 0
        self._is_sending = True
        self._is_awaited = False
        self._unavailable_since: float | None = None
        self._lost: str | None = None
        self._stopped = False
        self._bug: BaseException | None = None
        self._cpu_at_start: float | None = None
        self._cpu_at_end: float | None = None

    def run(self, report: Callable[[Pulse], bool]) -> None:
        """Sends until the window's end, then waits for what is under way.

        Args:
            report: Is told several times a second what happened, and returns whether to go on.
        """
        self._send_all(report)
        ended = self._clock.now()
        with self._lock:
            self._is_sending = False
            unsent = self._unsent(ended)
            self._tally.requests.unsent += unsent
            self._tally.images.unsent += unsent * self._requests[0].images
        self._note_cpu(ended)
        self._drain(report, ended + self._rules.drain_seconds)
        last = self._pulse(ended_at=ended)
        self._wire.abandon()
        report(last)

    def _send_all(self, report: Callable[[Pulse], bool]) -> None:
        next_report = self._clock.now() + _SECONDS_BETWEEN_REPORTS
        while self._is_sending_time(now := self._clock.now()) and not self._is_over():
            self._note_cpu(now)
            if now >= next_report:
                self._stopped = not report(self._pulse())
                next_report = now + _SECONDS_BETWEEN_REPORTS
            elif (due := self._next_due()) <= now:
                self._send_due(now)
            else:
                mark = self._window.counted_from if self._cpu_at_start is None else math.inf
                self._clock.sleep(min(due, next_report, mark, self._window.end) - now)

    def _is_sending_time(self, now: float) -> bool:
        """Until the window's end; what was due by then and could not be sent in time is still sent a little later."""
        if now < self._window.end:
            return True
        is_behind = self._is_open and self._next_due() < self._window.end
        return is_behind and now < self._window.end + self._rules.drain_seconds

    def _note_cpu(self, now: float) -> None:
        """Takes note of the processor time where requests begin to count and where they end."""
        if self._cpu_at_start is None and now >= self._window.counted_from:
            self._cpu_at_start = self._clock.cpu()
        if self._cpu_at_end is None and (now >= self._window.end or self._is_over()):
            self._cpu_at_end = self._clock.cpu()

    def _drain(self, report: Callable[[Pulse], bool], until: float) -> None:
        next_report = self._clock.now()
        while self._await_answers() and (now := self._clock.now()) < until and not self._is_over():
            if now >= next_report:
                self._stopped = not report(self._pulse())
                next_report = now + _SECONDS_BETWEEN_REPORTS
            else:
                self._clock.sleep(min(until, next_report) - now)

    def _is_over(self) -> bool:
        if self._bug is not None:
            raise self._bug
        return self._stopped or self._lost is not None

    def _next_due(self) -> float:
        """When the next request is due that may be sent; infinitely late where that depends on an answer."""
        with self._lock:
            if not self._due:
                return math.inf
            self._is_awaited = self._is_open and self._under_way >= self._rules.max_in_flight
            if self._is_awaited and self._due[0] <= self._clock.now():
                self._tally.was_full = True
            return math.inf if self._is_awaited else self._due[0]

    def _await_answers(self) -> bool:
        """Whether there are any to come; each is then told of at once."""
        with self._lock:
            self._is_awaited = True
            return self._under_way > 0

    def _send_due(self, now: float) -> None:
        """Sends the request that is due; one that was to warm up and comes too late for that is left out."""
        with self._lock:
            due = heapq.heappop(self._due)
            self._due.extend(itertools.islice(self._arrivals, 1))
        comes_too_late = due < self._window.counted_from <= now
        if not (self._is_open and comes_too_late):
            self._send(due)

    def _send(self, due: float) -> None:
        sent = self._clock.now()
        begun = due if self._is_open else sent
        # By when it was due: what a caller may still ask just before the end counts, however little later it is sent.
        is_counted = self._window.counts(due)
        request = self._requests[next(self._positions) % len(self._requests)]
        with self._lock:
            self._under_way += 1
            if is_counted:
                self._tally.requests.sent += 1
                self._tally.images.sent += request.images
                if self._is_open:
                    self._tally.lateness.add(sent - due)

        def done(answer: bytes | RetinueError | None) -> None:
            try:
                self._take_answer(answer, request.images, begun, sent, is_counted)
            except BaseException as exc:  # which the thread of `run` raises
                self._bug = exc
                self._clock.wake()

        self._wire.send(request.body, done)

    def _take_answer(
        self, answer: bytes | RetinueError | None, images: int, begun: float, sent: float, is_counted: bool
    ) -> None:
        now = self._clock.now()
        if isinstance(answer, bytes):
            try:
                outcome: Reply | RetinueError | None = self._read(answer, images)
            except ResponseError as error:
                outcome = error
        else:
            outcome = answer
        with self._lock:
            self._under_way -= 1
            if outcome is not None:
                self._count_outcome(outcome, images, begun, sent, now, is_counted)
            delay_seconds = self._delay_seconds(outcome, now)
            again = not self._is_open and self._is_sending and now < self._window.end
            again_at_once = again and delay_seconds == 0
            if again and not again_at_once:
                heapq.heappush(self._due, now + delay_seconds)
            wake = self._is_awaited or self._lost is not None or (again and not again_at_once)
        if again_at_once:
            self._send(now)
        elif wake:
            self._clock.wake()

    def _count_outcome(
        self,
        outcome: Reply | RetinueError,
        images: int,
        begun: float,
        sent: float,
        now: float,
        is_counted: bool,
    ) -> None:
        answered = outcome.answered if isinstance(outcome, Reply) else 0
        latency_seconds = now - begun
        if now < self._window.end:
            part = self._tally.slice(self._window.slice_at(now))
            part.answered += answered
            part.unanswered += images - answered
            if answered:
                part.latencies.add(latency_seconds)
        if self._window.counts(now):
            self._tally.in_window += answered
            self._tally.on_time += answered if latency_seconds <= self._rules.within_seconds else 0
        if not is_counted:
            return
        _count(self._tally, outcome, images)
        if answered:
            self._tally.latencies.add(latency_seconds)
            self._tally.served_seconds += now - sent

    def _delay_seconds(self, outcome: Reply | RetinueError | None, now: float) -> float:
        """How long a caller of a closed loop waits before it asks again; also notes whether the server is gone."""
        if isinstance(outcome, UnavailableError):
            if self._unavailable_since is None:
                self._unavailable_since = now
            elif now - self._unavailable_since >= _PATIENCE_SECONDS:
                self._lost = outcome.message
            return _DELAY_SECONDS
        self._unavailable_since = None
        if isinstance(outcome, OverloadedError):
            return min(outcome.retry_after_seconds or _DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        return 0.0

    def _unsent(self, now: float) -> int:
        """How many requests that count should have been sent by now and were not."""
        if not self._is_open:
            return 0
        due = itertools.takewhile(lambda moment: moment <= now, itertools.chain(self._due, self._arrivals))
        return sum(map(self._window.counts, due))

    def _pulse(self, *, ended_at: float | None = None) -> Pulse:
        with self._lock:
            tally, self._tally = self._tally, Tally()
            in_flight = self._under_way
        cpu_seconds = 0.0
        if self._cpu_at_start is not None:
            until = self._clock.cpu() if self._cpu_at_end is None else self._cpu_at_end
            cpu_seconds = until - self._cpu_at_start
        return Pulse(tally, in_flight, cpu_seconds, self._lost, ended_at)


def _count(tally: Tally, outcome: Reply | RetinueError, images: int) -> None:
    """Counts a request that counts, and each of its images, where they belong."""
    if isinstance(outcome, Reply):
        answered, refused = outcome.answered, outcome.refused
        tally.server.merge(outcome.server)
        for error in outcome.errors:
            _count_reason(tally, error, 1)
    else:
        answered, refused = 0, images if isinstance(outcome, OverloadedError) else 0
        _count_reason(tally, outcome, images)
    failed = images - answered - refused
    tally.images.add(answered, refused, failed)
    tally.requests.add(answered > 0, answered == 0 and failed == 0, answered == 0 and failed > 0)


def _count_reason(tally: Tally, error: RetinueError, images: int) -> None:
    tally.reasons[error.reason] += images
    tally.messages.setdefault(error.reason, error.message)
