"""Models that do what the dice say: their networks fail, hang and end threads, and are opened anew."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fuzz.simulated_threads import Scheduler, Thread
from tests.fuzz.watched_core import Clock

from retinue_server.batching.recovery import Limits, Remedy
from retinue_server.batching.tickets import Stop
from retinue_server.errors import DeviceError, ImageError

# How many turns a run takes, and opening a network.
_TURNS = (0, 0, 1, 3, 10)


class ThreadKiller(BaseException):
    """No Exception: the thread that runs a batch ends by it."""


@dataclass(frozen=True, slots=True)
class Ailments:
    """In which share of its runs a model does what.

    Attributes:
        faults: Raises, or answers too few or too many; and of attempts to open it, which fail.
        deaths: Ends its thread.
        hangs: Goes on until it is released, or stopped, where it obeys that.
    """

    faults: float = 0.0
    deaths: float = 0.0
    hangs: float = 0.0


@dataclass(slots=True, eq=False)
class Hang:
    """Something that does not end by itself.

    Attributes:
        thread: Which is in it.
        is_run: Whether it is in a network; else it opens one.
        released: Whether it may end.
    """

    thread: Thread
    is_run: bool
    released: bool = False


class Network:
    """A backend of a model."""

    def __init__(self, model: "Model", max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.closed = 0
        self.running = 0
        self._model = model

    def run(self, items: Sequence[Any], stop: Stop, *, alone: bool) -> list[Any]:
        """Answers each item, with itself, unless something comes between."""
        assert 1 <= len(items) <= self.max_batch_size
        self.note(items)
        chance = self._model.chance
        self._go_through(stop)
        answers = [self.answer(item) for item in items]
        if chance.random() < self._model.ailments.faults / 2:
            return answers[:-1] if chance.random() < 0.5 else [*answers, answers[0]]
        return answers

    def probe(self, stop: Stop) -> None:
        """Runs nothing, but as `run`."""
        self._go_through(stop)

    def _go_through(self, stop: Stop) -> None:
        assert not self.closed or self._model.is_closing, "a network runs that was closed"
        self.running += 1
        try:
            self._model.befall(stop)
        finally:
            self.running -= 1

    def note(self, items: Sequence[Any]) -> None:
        """Counts what is run."""
        self._model.ran.update((item.request, item.index) for item in items)

    def answer(self, item: Any) -> Any:
        """The answer of one that nothing came between."""
        return ImageError("bad") if item.is_bad else item

    def close(self) -> None:
        """Counts, and takes its time."""
        self._model.check_harmless()
        self.closed += 1
        assert self.closed == 1, "a network was closed twice"
        assert not self.running or self._model.is_closing, "a network was closed that runs"
        self._model.dawdle()


class Model:
    """One model, and its networks one after another.

    Args:
        scheduler: Has its dice.
        clock: Moved by what takes time.
        ailments: What befalls it.
        kind: Of its networks.

    Attributes:
        chance: The dice.
        ailments: Likewise; a schedule may change them.
        ran: How often which item of which request was run.
        networks: All that were opened, the latest last.
        hangs: What has hung.
        told_closed: Networks that it was told of that they are closed.
        is_closing: Whether it is being unloaded, which waits only for so long.
    """

    def __init__(
        self, scheduler: Scheduler, clock: Clock, ailments: Ailments, kind: Callable[..., Network] = Network
    ) -> None:
        self.chance = scheduler.chance
        self.ailments = ailments
        self.ran: Counter[tuple[int, int]] = Counter()
        self.hangs: list[Hang] = []
        self.told_closed = 0
        self.is_closing = False
        self._scheduler = scheduler
        self._clock = clock
        self._kind = kind
        self._max_batch_size = self.chance.choice((1, 2, 3, 5, 8))
        self.networks = [kind(self, self._max_batch_size)]

    @property
    def remedy(self) -> Remedy:
        """What it is healed with."""
        return Remedy(lambda network, stop: network.probe(stop), self._reopen, self._tell_closed)

    def befall(self, stop: Stop) -> None:
        """What happens while a network runs.

        Raises:
            BaseException: Often.
        """
        chance, ailments = self.chance, self.ailments
        self.dawdle(stop)
        deaths = ailments.deaths
        if chance.random() < ailments.hangs:
            self._hang(stop, is_run=True)
            # Those of threads that were given up are to happen, too.
            deaths *= 10
        if chance.random() < deaths:
            raise ThreadKiller
        self._fail_perhaps()

    def dawdle(self, stop: Stop | None = None) -> None:
        """Takes a while."""
        for _ in range(self.chance.choice(_TURNS)):
            self._scheduler.pause()
            self._clock.now += self.chance.random() * 0.01
            if stop is not None:
                stop.check()

    def check_harmless(self) -> None:
        """What may take long must not keep the engine's lock, nor a thread that runs batches."""
        assert not self._clock.lock.depth, "it is done under the lock"
        assert not self._scheduler.current.name.startswith("engine-"), "a thread is kept from batches"

    def hanging(self) -> list[Hang]:
        """What hangs now."""
        self.hangs = [hang for hang in self.hangs if hang.thread.is_alive() and not hang.released]
        return self.hangs

    def release(self, *, runs: bool = True) -> None:
        """Lets all end that hangs; or only what opens a network."""
        for hang in self.hanging():
            hang.released |= runs or not hang.is_run

    def _hang(self, stop: Stop | None, *, is_run: bool) -> None:
        hang = Hang(self._scheduler.current, is_run)
        self.hangs.append(hang)
        if stop is None or self.chance.random() < 0.5:
            self._scheduler.wait(lambda: hang.released, expires=False)
        else:
            self._scheduler.wait(lambda: hang.released or stop.requested, expires=False)
        hang.released = True
        if stop is not None and self.chance.random() < 0.5:
            stop.check()

    def _fail_perhaps(self) -> None:
        if self.chance.random() < self.ailments.faults:
            kinds = (ValueError, MemoryError, StopIteration, KeyError, DeviceError)
            raise self.chance.choice(kinds)("a network that fails")

    def _reopen(self) -> Network:
        self.check_harmless()
        self.dawdle()
        # More often, so that other threads are lost meanwhile.
        if self.chance.random() < 4 * self.ailments.hangs:
            self._hang(None, is_run=False)
        self._fail_perhaps()
        self.networks.append(self._kind(self, self._max_batch_size))
        return self.networks[-1]

    def _tell_closed(self) -> None:
        self.told_closed += 1
        assert self.told_closed <= sum(network.closed for network in self.networks)


def random_limits(scheduler: Scheduler) -> Limits:
    """When a model is ill: soon."""
    choice = scheduler.chance.choice
    return Limits(
        batch_seconds=1.0,
        grace_seconds=0.5,
        failures=choice((1, 2, 5)),
        lost_threads=choice((1, 2, 3)),
        first_pause_seconds=choice((0.0, 1.0)),
        longest_pause_seconds=4.0,
        device_failures=2,
    )
