"""Shared memory: a slot holds what a network takes and gives for one image."""

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from retinue_server.errors import OverloadedError
from retinue_server.workers.load import LOAD_BYTES, Load

# What arrays begin at a multiple of, so that no two share a cache line.
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Row:
    """What one input or output is for one image.

    Attributes:
        name: The input's or output's.
        dtype: NumPy's name of its type.
        shape: Without the batch.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Layout:
    """What the slots of a model hold.

    Attributes:
        slots: How many there are.
        inputs: What the network takes for each image.
        outputs: What it gives in every run.
        extra_outputs: What it gives in runs that ask for it.
    """

    slots: int
    inputs: tuple[Row, ...]
    outputs: tuple[Row, ...]
    extra_outputs: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them, in their order in memory."""
        return self.inputs + self.outputs + self.extra_outputs

    @property
    def answer_rows(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Of each output the element type and the shape for one image."""
        return {row.name: (np.dtype(row.dtype), row.shape) for row in self.outputs + self.extra_outputs}

    @property
    def size_bytes(self) -> int:
        """What all slots take, and what stands before them, in whole pages."""
        return _aligned(self._offsets()[-1], mmap.PAGESIZE)

    def to_json(self) -> list[Any]:
        """What `from_json` reads."""
        groups = (self.inputs, self.outputs, self.extra_outputs)
        return [self.slots, *([[row.name, row.dtype, row.shape] for row in group] for group in groups)]

    @classmethod
    def from_json(cls, value: list[Any]) -> "Layout":
        """Reads what `to_json` gave."""
        slots, *groups = value
        inputs, outputs, extra = (
            tuple(Row(name, dtype, tuple(shape)) for name, dtype, shape in rows) for rows in groups
        )
        return cls(slots, inputs, outputs, extra)

    def arrays(self, memory: mmap.mmap) -> dict[str, npt.NDArray[Any]]:
        """Each input and output of all slots, [slots, ...], over memory of `size_bytes`."""
        return {
            row.name: np.ndarray((self.slots, *row.shape), row.dtype, memory, offset)
            for row, offset in zip(self.rows, self._offsets(), strict=False)
        }

    def _offsets(self) -> list[int]:
        """Where each array begins, and where the last one ends."""
        offsets = [LOAD_BYTES]
        for row in self.rows:
            offsets.append(_aligned(offsets[-1] + self.slots * row.size_bytes, _ALIGNMENT_BYTES))
        return offsets


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's slots lie in the memory of every front-end.

    Attributes:
        number: Of the model.
        offset: Where they begin.
        layout: What they hold.
    """

    number: int
    offset: int
    layout: Layout


class Places:
    """Gives each model a number and a place. Neither is ever another's: what is said late of one that went is of it.

    That costs nothing, since memory that nobody writes to is only an offset.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._end = 0

    def new(self, layout: Layout) -> Place:
        """The next one."""
        place = Place(next(self._numbers), self._end, layout)
        self._end += layout.size_bytes
        return place


class Slots:
    """The slots of one model that one front-end shares with the engine's process.

    Args:
        layout: What they hold.
        memory: Of the layout's size.

    Attributes:
        layout: As given.
        arrays: Each input and output by name, [slots, ...].
        load: What the engine's process tells of its queue.
    """

    def __init__(self, layout: Layout, memory: mmap.mmap) -> None:
        self.layout = layout
        self.arrays: Mapping[str, npt.NDArray[Any]] = layout.arrays(memory)
        self.load = Load(memoryview(memory)[:LOAD_BYTES])
        self._memory = memory
        self._free = list(range(layout.slots - 1, -1, -1))
        self._when_all_free: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def lease(self, count: int) -> "tuple[Lease, list[int]]":
        """Takes free slots: those that were used last, whose memory there is already.

        Raises:
            OverloadedError: There are not so many.
        """
        with self._lock:
            left = len(self._free)
            if count <= left:
                taken = self._free[left - count :]
                del self._free[left - count :]
        if count > left:
            retry_after_seconds = self.load.retry_after_seconds
            raise OverloadedError(
                f"the server holds as many decoded images of this model as it has room for, {self.layout.slots}, and "
                f"{count} more are too many; retry in {retry_after_seconds:.2f} s or send fewer at once.",
                retry_after_seconds=retry_after_seconds,
            )
        return Lease(lambda: self._put_back(taken)), taken

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def when_all_free(self, call: Callable[[], object]) -> None:
        """Has a function called, once, when all are: at once, or by whichever thread puts the last ones back."""
        with self._lock:
            if len(self._free) < self.layout.slots:
                self._when_all_free = call
                return
        call()

    def give_back(self) -> None:
        """Gives the memory back to the system; to be asked when neither process uses it any more."""
        self._memory.madvise(mmap.MADV_REMOVE)

    def _put_back(self, taken: Sequence[int]) -> None:
        call = None
        with self._lock:
            self._free.extend(taken)
            if len(self._free) == self.layout.slots:
                call, self._when_all_free = self._when_all_free, None
        if call is not None:
            call()


class Lease:
    """A request's hold on its slots, until its caller has the answer or has left, and nothing uses them any more.

    Safe to use from several threads at once.

    Args:
        when_over: Called once, when the slots can be another request's.
    """

    __slots__ = ("_ended", "_lock", "_users", "_when_over")

    def __init__(self, when_over: Callable[[], object]) -> None:
        self._when_over = when_over
        self._lock = threading.Lock()
        self._users = 0
        self._ended = False

    def use(self) -> bool:
        """Begins to use the slots, until `leave`; false, and there is nothing to leave, where the lease has ended."""
        with self._lock:
            if self._ended:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Uses the slots no more."""
        with self._lock:
            self._users -= 1
            over = self._ended and not self._users
        if over:
            self._when_over()

    def end(self) -> None:
        """Lets nobody begin to use the slots any more. Called once."""
        with self._lock:
            self._ended = True
            over = not self._users
        if over:
            self._when_over()


@contextmanager
def in_use(leases: Iterable[Lease]) -> Iterator[set[Lease]]:
    """Uses the slots of requests for a while; yields the leases that have not ended."""
    held = {lease for lease in set(leases) if lease.use()}
    try:
        yield held
    finally:
        for lease in held:
            lease.leave()


class SharedMemory:
    """The memory that one front-end shares with the engine's process. Pages are taken when they are first written.

    Args:
        file: Descriptor of the memory's file, which is this object's from now on.
    """

    def __init__(self, file: int) -> None:
        self.file = file

    @classmethod
    def new(cls) -> "SharedMemory":
        """Memory that nobody else has yet."""
        return cls(os.memfd_create("retinue-slots"))

    def grow(self, place: Place) -> None:
        """Makes room for the slots of a model."""
        end = place.offset + place.layout.size_bytes
        if end > os.fstat(self.file).st_size:
            os.ftruncate(self.file, end)

    def map(self, place: Place) -> Slots:
        """The slots of a model, in memory that has room for them."""
        return Slots(place.layout, mmap.mmap(self.file, place.layout.size_bytes, offset=place.offset))

    def close(self) -> None:
        """Closes the file; what is mapped stays so until nothing refers to it."""
        os.close(self.file)


def _aligned(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
