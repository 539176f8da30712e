"""What one front-end has of the models, as the engine's process keeps account of it."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import structlog

from retinue_server.batching.queue import Queue
from retinue_server.workers.frames import FrameError
from retinue_server.workers.slots import Place, SharedMemory
from retinue_server.workers.submissions import ModelEnd

_log = structlog.get_logger(__name__)


class Leases(Protocol):
    """Counts who holds a model; see `catalog.Leases`."""

    def take(self) -> None:
        """Counts one more."""
        ...

    def give_back(self) -> None:
        """Counts one less."""
        ...


class HeldModels(Mapping[int, ModelEnd]):
    """The models that a front-end has, by their numbers, each with the slots that it has of it.

    While it has one, it holds a lease of it: for all of its calls together, and as long as anything of theirs is in the
    slots.

    Args:
        memory: That the front-end shares.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._ends: dict[int, ModelEnd] = {}
        self._leases: dict[int, Leases] = {}

    def __getitem__(self, number: int) -> ModelEnd:
        return self._ends[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def hold(self, place: Place, queue: Queue, leases: Leases) -> None:
        """Has it hold a model, unless it does."""
        if place.number in self._ends:
            return
        self._memory.grow(place)
        self._ends[place.number] = ModelEnd(queue, self._memory.map(place))
        self._leases[place.number] = leases
        leases.take()

    def release(self, number: int) -> None:
        """Takes a model back, of which the front-end uses nothing any more, and gives its memory to the system.

        Raises:
            FrameError: It has no such model.
        """
        if number not in self._ends:
            raise FrameError(f"the end of model {number}, which it does not have")
        slots = self._ends.pop(number).slots
        try:
            slots.give_back()
        except OSError as error:
            # Some sandboxes' kernels cannot; then it stays until the front-end ends.
            _log.warning("slots_not_given_back", size_bytes=slots.layout.size_bytes, reason=error.strerror)
        self._leases.pop(number).give_back()

    def drop_all(self) -> None:
        """Takes all back: the front-end is gone, and its memory goes when no batch that runs is in it any more."""
        self._ends.clear()
        while self._leases:
            self._leases.popitem()[1].give_back()
