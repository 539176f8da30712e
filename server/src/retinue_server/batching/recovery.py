"""What becomes of a model that fails: it is probed, refuses requests, is opened anew, and answers again.

    ready --some batches in a row failed, or one hung--> suspect --the probe is answered--> ready
      |                                                     |
      |                                           the probe fails or hangs
      |                                                     v
      +--a thread was lost to it, or its device fails--> rebuilding --opened and run--> ready
                                                         |        ^
                                                    that fails    | after a pause, each twice the one before
                                                         v        |
                                                         waiting--+

    given up: so many threads were lost to it that it is not opened anew, until one of them comes back.

What callers send must not take a model away from others: so a model is not judged by what it does with their images,
however many fail, but by a probe that is always the same. Requests are taken while it is ready or suspect, and refused
at once in all other states.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import structlog

from retinue_server.batching.backend import Backend
from retinue_server.batching.tickets import Stop
from retinue_server.errors import DeviceError, UnavailableError

_log = structlog.get_logger(__name__)

# A run takes so many times what it usually does where the machine has much else to do.
_TIMES_EXPECTED = 20


class State(StrEnum):
    """What is known of a model, see above."""

    READY = "ready"
    SUSPECT = "suspect"
    REBUILDING = "rebuilding"
    WAITING = "waiting"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a model is taken to be ill.

    Attributes:
        batch_seconds: What a batch may take at least before it is taken to hang; 0 for any time.
        grace_seconds: How long one that is told to stop may take for that before its thread is given up.
        failures: So many batches that fail in a row are a reason to probe it.
        lost_threads: So many threads that it keeps are the end of it.
        first_pause_seconds: Between the first two attempts to open it anew.
        longest_pause_seconds: Between any two.
        device_failures: So many attempts in a row that fail by the device mean that the device is gone.
    """

    batch_seconds: float = 60.0
    grace_seconds: float = 5.0
    failures: int = 5
    lost_threads: int = 3
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 300.0
    device_failures: int = 3

    def longest(self, expected_seconds: float) -> float:
        """How long a batch may take without a good reason to think that it does."""
        return _TIMES_EXPECTED * expected_seconds

    def batch_may_take(self, expected_seconds: float) -> float:
        """How long a batch may take before it is stopped."""
        return max(self.batch_seconds, self.longest(expected_seconds))


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a model is healed with.

    Attributes:
        probe: Runs what harms no network in a backend; raises what that does. Blocks.
        reopen: Opens another backend, which has run; raises why not. Blocks.
        on_closed: Called after each backend that was closed and that no batch is in.
    """

    probe: Callable[[Any, Stop], None]
    reopen: Callable[[], Backend[Any, Any]]
    on_closed: Callable[[], object] = lambda: None


class Ward(Protocol):
    """The model's queue, as it is seen from here. All is called under the engine's lock, but for `clear`."""

    lock: threading.RLock

    def want_probe(self) -> None:
        """Has a thread of the engine run the probe next."""
        ...

    def refuse(self, error: UnavailableError) -> None:
        """Answers what waits and what comes with an error, and begins no batch any more."""
        ...

    def clear(self) -> None:
        """Closes the backend that was, unless a batch is in it."""
        ...

    def accept(self, backend: Backend[Any, Any]) -> None:
        """Runs batches in another backend from now on."""
        ...


def _in_thread(work: Callable[[], None]) -> None:
    # One that hangs must not keep the process from ending.
    threading.Thread(target=work, name="recovery", daemon=True).start()


class Recovery:
    """Keeps account of one model's failures and heals it. All is called under the engine's lock.

    Args:
        remedy: What it is healed with.
        limits: When it is ill.
        name: Of the model, for the log.
        on_change: Called whenever it begins or ceases to take requests.
        clock: Monotonic seconds; a test may drive it.
        start: Has work done that blocks.

    Attributes:
        limits: As given.
        remedy: As given.
        name: As given.
        state: What is known of the model.
        hung: Batches that were stopped since they took too long.
        lost_threads: Those of them that did not stop, and whose threads are not back yet.
        rebuilds: How often it was opened anew.
        failed_rebuilds: How often that failed.
    """

    def __init__(
        self,
        remedy: Remedy,
        limits: Limits = Limits(),
        *,
        name: str = "",
        on_change: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = _in_thread,
    ) -> None:
        self.limits = limits
        self.remedy = remedy
        self.state = State.READY
        self.hung = self.lost_threads = self.rebuilds = self.failed_rebuilds = 0
        self.name = name
        self._on_change = on_change
        self._clock = clock
        self._start = start
        self._ward: Ward | None = None
        self._failures = self._device_failures = 0
        self._pause_seconds = limits.first_pause_seconds
        self._retry_at = 0.0

    @property
    def device_lost(self) -> bool:
        """Whether its device lets nobody open it any more."""
        return self._device_failures >= self.limits.device_failures

    def look_after(self, ward: Ward) -> None:
        """Begins to heal what runs the batches of a queue."""
        self._ward = ward

    def detach(self) -> None:
        """Leaves the model alone: it is being unloaded."""
        self._ward = None

    def clear(self) -> None:
        """Has backends closed that nothing is in any more.

        Not by a thread that runs batches: closing may take long, or hang, where something else hangs in the device.
        """
        # What is unloaded is closed by whoever does that.
        if self._ward is not None:
            # Where the system has no thread for it, the next batch that ends is an occasion, too.
            with suppress(RuntimeError):
                self._start(self._ward.clear)

    def batch_answered(self) -> None:
        """A batch had an answer for somebody."""
        self._failures = 0
        self._pause_seconds, self._retry_at = self.limits.first_pause_seconds, 0.0

    def batch_failed(self) -> None:
        """A batch had none."""
        self._failures += 1
        if self._failures >= self.limits.failures:
            self.suspect("batches_failed")

    def device_failed(self) -> None:
        """What runs the model has failed for good."""
        self._rebuild("device_failed")

    def batch_hung(self) -> None:
        """A batch has taken too long and is told to stop."""
        self.hung += 1
        self.suspect("batch_hung")

    def thread_lost(self, *, current: bool) -> None:
        """It did not stop, and its thread is given up.

        Args:
            current: Whether the backend that it is in has not been replaced meanwhile.
        """
        self.lost_threads += 1
        if current or self.lost_threads >= self.limits.lost_threads:
            self._rebuild("thread_lost")

    def thread_back(self) -> None:
        """A thread that was given up has ended after all."""
        self.lost_threads -= 1
        if self.state is State.GIVEN_UP:
            self._rebuild("thread_back")

    def suspect(self, reason: str) -> None:
        """Has the model probed, if that is of any use now."""
        if self.state is State.READY and self._ward is not None:
            self._go(State.SUSPECT, reason)
            self._ward.want_probe()

    def probe_answered(self) -> None:
        """The model does what it always did: what it failed on was what it was given."""
        if self.state is State.SUSPECT:
            self._failures = 0
            self._go(State.READY, "probe_answered")

    def probe_failed(self) -> None:
        """The model itself is ill."""
        if self.state is State.SUSPECT:
            self._rebuild("probe_failed")

    def tick(self) -> None:
        """Does what is due. To be called again and again."""
        if self.state is State.WAITING and self._clock() >= self._retry_at:
            self._rebuild("retried")

    def _rebuild(self, reason: str) -> None:
        ward = self._ward
        if ward is None or self.state is State.REBUILDING:
            return
        state = State.REBUILDING
        if self.lost_threads >= self.limits.lost_threads:
            state = State.GIVEN_UP
        elif self._clock() < self._retry_at:
            state = State.WAITING
        ward.refuse(unready(self.name, state))
        self._go(state, reason)
        if state is State.REBUILDING:
            try:
                self._start(partial(self._heal, ward))
            except RuntimeError as error:
                # The system has no thread for it now.
                self._not_healed(error)
        elif state is State.GIVEN_UP:
            # Where the threads were lost to those before it, no batch may be in it that would close it when it ends.
            self.clear()

    def _heal(self, ward: Ward) -> None:
        """Opens the model anew. Called without the lock."""
        try:
            # There need not be memory for two.
            ward.clear()
            backend = self.remedy.reopen()
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            with ward.lock:
                self._not_healed(error)
            return
        with ward.lock:
            self._healed(ward, backend)
        # Where it was unloaded meanwhile, that was the one to close.
        ward.clear()

    def _healed(self, ward: Ward, backend: Backend[Any, Any]) -> None:
        self.rebuilds += 1
        self._failures = self._device_failures = 0
        # Should it fall ill again before it has answered anybody.
        self._pause()
        ward.accept(backend)
        if self._ward is None:
            return
        if self.lost_threads >= self.limits.lost_threads:
            ward.refuse(unready(self.name, State.GIVEN_UP))
            self._go(State.GIVEN_UP, "thread_lost")
        else:
            self._go(State.READY, "rebuilt")

    def _not_healed(self, error: Exception) -> None:
        self.failed_rebuilds += 1
        self._device_failures = self._device_failures + 1 if isinstance(error, DeviceError) else 0
        _log.error("model_not_rebuilt", model=self.name, reason=str(error))
        self._pause()
        self._go(State.WAITING, "not_rebuilt")

    def _pause(self) -> None:
        """Has the next attempt wait, and the one after it for twice as long."""
        self._retry_at = self._clock() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, self.limits.longest_pause_seconds)

    def _go(self, state: State, reason: str) -> None:
        was_taken, self.state = taken(self.state), state
        tell = _log.info if state is State.READY else _log.warning
        tell("model_state", model=self.name, state=str(state), reason=reason, lost_threads=self.lost_threads)
        if was_taken is not taken(state):
            self._on_change()


def taken(state: State) -> bool:
    """Whether requests are."""
    return state in (State.READY, State.SUSPECT)


def unready(name: str, state: State) -> UnavailableError:
    """What callers of a model are told whose requests are not taken."""
    what = (
        "hangs too often and is given up" if state is State.GIVEN_UP else "has failed and is being restored"
    )
    return UnavailableError(
        f"model '{name}' {what}; retry later or on another server.", reason="MODEL_UNREADY"
    )
