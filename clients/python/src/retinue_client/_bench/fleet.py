"""The processes that send, as one."""

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Self

from retinue_client._bench.driver import Pulse, Rules
from retinue_client._bench.load import Load, Window
from retinue_client._bench.tally import Tally
from retinue_client._bench.worker import Equipment, Order, Stop, work

# Between the order and its start: longer than an order takes to every process.
_HEAD_START_SECONDS = 0.05
_USUAL_SLICE_SECONDS = 0.5
_MOST_SLICES = 600
_SECONDS_TO_STOP = 3.0


class WorkerError(Exception):
    """A process that sends has ended by itself."""


@dataclass(slots=True)
class Course:
    """How a load goes, or went.

    Attributes:
        load: The load.
        window: When it was to run.
        tally: What was counted.
        in_flight: Requests that are under way.
        cpu_seconds: Of each process, the processor time it took while requests counted.
        ended_at: When the last process that has ended stopped sending, or 0.
        lost: Why it stopped, or None.
        interrupted: Whether it was the user who stopped it.
    """

    load: Load
    window: Window
    tally: Tally = field(default_factory=Tally)
    in_flight: int = 0
    cpu_seconds: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    lost: str | None = None
    interrupted: bool = False

    @property
    def counted_seconds(self) -> float:
        """How long requests counted; 0 where it ended before that."""
        return max(0.0, min(self.ended_at, self.window.end) - self.window.counted_from)


class Fleet:
    """Some processes with a connection each; started on entering, ended on leaving.

    Args:
        equipment: What they need; connections are shared out among them.
        processes: How many.
    """

    def __init__(self, equipment: Equipment, processes: int) -> None:
        self._equipment = equipment
        self._context = multiprocessing.get_context("spawn")
        self._count = processes
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> Self:
        """Starts them, and waits until all are ready.

        Raises:
            WorkerError: One has not come up.
        """
        try:
            with _without_interrupts():
                for index in range(self._count):
                    self._start(index)
            for index in range(self._count):
                self._receive(index)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def run(
        self,
        load: Load,
        rules: Rules,
        *,
        seconds: float,
        warm_up_seconds: float,
        seed: int,
        watch: Callable[[Course], None],
    ) -> Course:
        """Lets all of them drive a load, until its end or until Ctrl-C.

        Args:
            load: The load, which is shared out among them.
            rules: What else holds.
            seconds: How long requests count.
            warm_up_seconds: How long they are sent before that.
            seed: Of all that is left to chance.
            watch: Is shown the course of it several times a second.

        Raises:
            WorkerError: A process has ended by itself.
        """
        start = time.monotonic() + _HEAD_START_SECONDS
        counted_from = start + warm_up_seconds
        end = counted_from + seconds
        slices = min(_MOST_SLICES, max(1, round((end - start) / _USUAL_SLICE_SECONDS)))
        course = Course(load, Window(start, counted_from, end, (end - start) / slices))
        course.cpu_seconds = [0.0] * self._count
        share = Rules(math.ceil(rules.max_in_flight / self._count), rules.within_seconds, rules.drain_seconds)
        for index, connection in enumerate(self._connections):
            part = load.share(index, self._count)
            connection.send(Order(part, course.window, share, seed * self._count + index))
        self._follow(course, watch)
        return course

    def _follow(self, course: Course, watch: Callable[[Course], None]) -> None:
        in_flight = [0] * self._count
        working = set(range(self._count))
        with _counting_interrupts() as interrupts:
            while working and len(interrupts) <= 1:
                for index in self._ready(working):
                    pulse = self._receive(index)
                    if not isinstance(pulse, Pulse):
                        raise WorkerError("A load process sent what was not expected of it.")
                    self._take(course, index, pulse)
                    in_flight[index] = pulse.in_flight
                    if pulse.ended_at is not None:
                        working.discard(index)
                course.in_flight = sum(in_flight)
                if interrupts and not course.interrupted:
                    course.interrupted = True
                    self._stop(course)
                watch(course)

    def _take(self, course: Course, index: int, pulse: Pulse) -> None:
        course.tally.merge(pulse.tally)
        course.cpu_seconds[index] = pulse.cpu_seconds
        if pulse.ended_at is not None:
            course.ended_at = max(course.ended_at, pulse.ended_at)
        if pulse.lost is not None and course.lost is None:
            course.lost = pulse.lost
            self._stop(course)

    def _stop(self, course: Course) -> None:
        course.ended_at = time.monotonic()
        for connection in self._connections:
            connection.send(Stop())

    def _ready(self, working: set[int]) -> Iterator[int]:
        """Those of the processes from which something came within a quarter of a second."""
        connections = {self._connections[index]: index for index in working}
        for ready in wait(list(connections), timeout=0.25):
            yield connections[ready]  # type: ignore[index]

    def _receive(self, index: int) -> object:
        try:
            return self._connections[index].recv()
        except (EOFError, ConnectionError) as exc:
            self._processes[index].join(_SECONDS_TO_STOP)
            code = self._processes[index].exitcode
            raise WorkerError(
                f"A load process ended by itself (exit code {code}); if the machine is short of memory, use smaller or "
                "fewer images."
            ) from exc

    def _start(self, index: int) -> None:
        connections = max(1, (self._equipment.connections + self._count - 1 - index) // self._count)
        equipment = replace(self._equipment, connections=connections)
        here, there = self._context.Pipe()
        process = self._context.Process(target=work, args=(there, equipment), daemon=True)
        process.start()
        there.close()
        self._processes.append(process)
        self._connections.append(here)

    def _end(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(_SECONDS_TO_STOP)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C means nothing meanwhile, nor to the processes that are started, not even while they still import."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _counting_interrupts() -> Iterator[list[int]]:
    """Ctrl-C meanwhile only makes the list longer: as an exception it could come in the middle of a message."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
