"""Threads of which one runs at a time, and a seeded dice says which: interleavings that no real run would show twice.

They stand in for the module `threading` in what is tested. A thread gives way wherever it takes a lock, waits, or is
told to (`Scheduler.pause`), so every order of critical sections can come about, and a notification that was forgotten
leaves a thread waiting for good, where in a real run the next one would hide it.
"""

import itertools
import random
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any

# A thread that does not give way in this time never will.
_TURN_SECONDS = 20
# How often a wait that has a time limit runs into it, though it could go on.
_EXPIRY = 0.02


class Thread:
    """As `threading.Thread`, but it runs only while the scheduler gives it a turn.

    Attributes:
        error: What its target raised, if anything.
        joins: Whose end it waits for, if anybody's.
    """

    def __init__(
        self, scheduler: "Scheduler", target: Callable[[], object], name: str = "", daemon: bool = True
    ) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.joins: Thread | None = None
        self.ready: Callable[[], bool] = lambda: True
        self.expires = self.expired = False
        self.turn = threading.Lock()
        self.turn.acquire()
        self._scheduler = scheduler
        self._target = target
        self._alive = False
        self._number = scheduler.number()

    def __hash__(self) -> int:
        # So that sets of them are the same each time.
        return self._number

    def start(self) -> None:
        """Lets the scheduler give it turns."""
        self._alive = True
        self._scheduler.threads.append(self)
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def is_alive(self) -> bool:
        """Whether its target has not returned."""
        return self._alive

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end, or runs out of time, which is up to the dice."""
        thread = self._scheduler.current
        thread.joins = self
        self._scheduler.wait(lambda: not self._alive, expires=timeout is not None)
        thread.joins = None

    def _run(self) -> None:
        self.turn.acquire()
        try:
            self._target()
        except BaseException as error:
            self.error = error
            self._scheduler.errors.append(error)
        self._alive = False
        self._scheduler.threads.remove(self)
        self._scheduler.back.release()


class RLock:
    """As `threading.RLock`. Whoever holds it has the turn, so nobody ever waits for it."""

    def __init__(self, scheduler: "Scheduler") -> None:
        self._scheduler = scheduler
        self.depth = 0

    def __enter__(self) -> None:
        if not self.depth:
            self._scheduler.pause()
        self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1


class Condition:
    """As `threading.Condition`; whom a notification reaches is up to the dice."""

    def __init__(self, scheduler: "Scheduler", lock: RLock) -> None:
        self._scheduler = scheduler
        self._lock = lock
        self._waiters: list[list[bool]] = []

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def wait(self, timeout: float | None = None) -> bool:
        """Gives the lock away until somebody notifies."""
        notified = [False]
        self._waiters.append(notified)
        depth, self._lock.depth = self._lock.depth, 0
        self._scheduler.wait(lambda: notified[0], expires=timeout is not None)
        assert self._lock.depth == 0
        self._lock.depth = depth
        if not notified[0]:
            self._waiters.remove(notified)
        return notified[0]

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until it is so."""
        while not predicate():
            if not self.wait(timeout):
                break
        return predicate()

    def notify(self, count: int = 1) -> None:
        """Lets so many of those that wait go on."""
        assert self._lock.depth, "whoever notifies must hold the lock"
        for notified in self._scheduler.chance.sample(self._waiters, min(count, len(self._waiters))):
            notified[0] = True
            self._waiters.remove(notified)

    def notify_all(self) -> None:
        """Lets all go on."""
        self.notify(len(self._waiters))


class Scheduler:
    """Gives threads their turns, in an order that a seeded dice makes up.

    Args:
        chance: The dice.

    Attributes:
        chance: Likewise.
        threads: Those that live.
        errors: By which threads have ended.
        back: Released by a thread that gives its turn back.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.threads: list[Thread] = []
        self.errors: list[BaseException] = []
        self.back = threading.Lock()
        self.back.acquire()
        self._current: Thread | None = None
        self._numbers = itertools.count()

    @property
    def current(self) -> Thread:
        """The one that has its turn."""
        assert self._current is not None, "only simulated threads may wait"
        return self._current

    def number(self) -> int:
        """For one more thread."""
        return next(self._numbers)

    def module(self) -> SimpleNamespace:
        """What stands in for `threading`."""
        return SimpleNamespace(
            Thread=lambda **arguments: Thread(self, **arguments),
            RLock=lambda: RLock(self),
            Condition=lambda lock: Condition(self, lock),
            current_thread=lambda: self._current,
        )

    def spawn(self, target: Callable[[], object]) -> Thread:
        """Starts a thread."""
        thread = Thread(self, target)
        thread.start()
        return thread

    def pause(self) -> None:
        """Gives the calling thread's turn back; it may have the next one. Whoever is none goes on."""
        if self._current is not None:
            self.wait(lambda: True, expires=False)

    def wait(self, ready: Callable[[], bool], *, expires: bool) -> None:
        """Gives the calling thread's turn back until something is so, or its time is over."""
        thread = self.current
        thread.ready, thread.expires, thread.expired = ready, expires, False
        self.back.release()
        thread.turn.acquire()

    def step(self) -> bool:
        """Gives one thread a turn; false where none can go on."""
        able = [thread for thread in self.threads if thread.ready()]
        late = [thread for thread in self.threads if thread.expires and not thread.ready()]
        if late and self.chance.random() < _EXPIRY:
            self._resume(self.chance.choice(late), expired=True)
        elif able:
            self._resume(self.chance.choice(able), expired=False)
        else:
            return False
        return True

    def expire_join(self, hanging: Collection[Thread]) -> bool:
        """Has one thread run out of time that waits for the end of one of these; false where none does."""
        late = [thread for thread in self.threads if thread.expires and thread.joins in hanging]
        if late:
            self._resume(self.chance.choice(late), expired=True)
        return bool(late)

    def _resume(self, thread: Thread, *, expired: bool) -> None:
        thread.expired, thread.ready, thread.expires = expired, lambda: True, False
        self._current = thread
        thread.turn.release()
        if not self.back.acquire(timeout=_TURN_SECONDS):
            raise AssertionError(f"thread {thread.name!r} hangs outside of every wait")
        self._current = None


@contextmanager
def in_place_of_threading(scheduler: Scheduler, *modules: Any) -> Iterator[None]:
    """Has modules use simulated threads instead of real ones."""
    kept = [module.threading for module in modules]
    for module in modules:
        module.threading = scheduler.module()
    try:
        yield
    finally:
        for module, real in zip(modules, kept, strict=True):
            module.threading = real
