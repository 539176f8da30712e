"""The engine's end of a model: runs batches of images that front-ends have put into slots."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from retinue.v1 import manifest_pb2 as pb

from retinue_server.batching.tickets import Stop, Stopped
from retinue_server.errors import EngineError, RetinueError
from retinue_server.runtime import contract
from retinue_server.workers.frames import Ran
from retinue_server.workers.slots import Layout, Lease, Row, Slots, in_use

Arrays = Mapping[str, npt.NDArray[Any]]
AnswerRows = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]

# What the slots of one model may take, all front-ends' together, unless one request needs more.
_MOST_BYTES = 256 * 1024 * 1024


class Network(Protocol):
    """What runs batches of images; see `pipeline.Network`."""

    def run(
        self,
        images: npt.NDArray[np.uint8],
        feeds: Arrays,
        extra: Collection[str],
        when_stopped: Callable[[Callable[[], None]], None],
        *,
        alone: bool,
    ) -> Arrays:
        """Runs them."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


@dataclass(slots=True, eq=False)
class SlotRequest:
    """What the images of one request have in common.

    Attributes:
        slots: Of the front-end that has it.
        lease: Ends when its caller leaves.
        iou_threshold: As in `frames.Submission`.
        extra_outputs: The names of those that are wanted.
    """

    slots: Slots
    lease: Lease
    iou_threshold: float
    extra_outputs: frozenset[str]


@dataclass(slots=True)
class SlotImage:
    """One image to run."""

    request: SlotRequest
    slot: int


def together(first: SlotImage, second: SlotImage) -> bool:
    """Whether two images can be in one batch: a network takes one overlap threshold for all of them."""
    return first.request.iou_threshold == second.request.iou_threshold


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How many slots each front-end has of a model.

    Attributes:
        max_queue_images: Images that may wait; as many again may run or be in a front-end's hands.
        max_images: The most of one request.
        workers: How many front-ends there are.
    """

    max_queue_images: int
    max_images: int
    workers: int

    def layout(self, manifest: pb.ModelManifest, answer_rows: AnswerRows) -> Layout:
        """What the slots of a model hold, and how many there are.

        Args:
            manifest: Of the model.
            answer_rows: Of what its network gives, the extra outputs included, the element type and an image's shape.
        """
        inputs = tuple(
            Row(
                name,
                "uint8" if name == contract.IMAGES else "float32",
                tuple(size for size, _ in tensor.sizes),
            )
            for name, tensor in contract.inputs(manifest).items()
            if tensor.batched
        )
        outputs, extra = (
            tuple(Row(name, answer_rows[name][0].name, answer_rows[name][1]) for name in names)
            for names in (contract.outputs(manifest), contract.extra_outputs(manifest))
        )
        slot_bytes = sum(row.size_bytes for row in inputs + outputs + extra)
        by_bytes = _MOST_BYTES // self.workers // slot_bytes
        least = min(self.max_images, self.max_queue_images)
        return Layout(max(min(2 * self.max_queue_images, by_bytes), least), inputs, outputs, extra)


class SlotBackend:
    """A model as a `batching.Backend` of images in slots.

    Args:
        network: What runs the batch.
        layout: What the slots hold.
        batch_sizes: Ascending; the last is the most images of one batch.
        typical: Makes what the network takes beside so many images.
        fill_up: Whether batches are filled up to one of these sizes, as a GPU wants it.
        new_slab: Makes what a batch's images are gathered in, where the network does not run those that lie elsewhere.
    """

    def __init__(
        self,
        network: Network,
        layout: Layout,
        *,
        batch_sizes: Sequence[int],
        typical: Callable[[int], Arrays],
        fill_up: bool = False,
        new_slab: Callable[[], npt.NDArray[np.uint8]] | None = None,
    ) -> None:
        self._network = network
        self._layout = layout
        self._batch_sizes = batch_sizes
        self._typical = typical
        self._fill_up = fill_up
        self._new_slab = new_slab
        self._takes_iou_threshold = any(row.name == contract.SCORE_THRESHOLD for row in layout.inputs)
        # Handed out and back under the interpreter's lock: as many exist as batches ever ran at once.
        self._slabs: list[dict[str, npt.NDArray[Any]]] = []

    @property
    def max_batch_size(self) -> int:
        """The most images of one batch."""
        return self._batch_sizes[-1]

    def run(self, items: Sequence[SlotImage], stop: Stop, *, alone: bool = False) -> list[Ran | RetinueError]:
        """Runs the images and writes what comes out into their slots.

        Raises:
            Stopped: Nobody waits for the answers any more.
        """
        with self._in_slabs() as slabs, in_use(item.request.lease for item in items) as held:
            return self._run_in(slabs, items, held, stop, alone)

    def probe(self, stop: Stop) -> None:
        """Runs the network on a black image.

        Raises:
            Exception: It cannot.
        """
        rows = self._rows(1)
        with self._in_slabs() as slabs:
            images = slabs[contract.IMAGES][:rows]
            images[...] = 0
            self._network.run(images, self._typical(rows), (), stop.when_requested, alone=False)

    def close(self) -> None:
        """Gives back the slabs and what the network holds."""
        self._slabs.clear()
        self._network.close()

    def _run_in(
        self,
        slabs: Mapping[str, npt.NDArray[Any]],
        items: Sequence[SlotImage],
        held: Collection[Lease],
        stop: Stop,
        alone: bool,
    ) -> list[Ran | RetinueError]:
        # Rows lie in the batch by front-end, so that each one's are copied at once.
        by_slots: dict[int, tuple[Slots, list[int]]] = {}
        for item in items:
            if item.request.lease in held:
                slots = item.request.slots
                by_slots.setdefault(id(slots), (slots, []))[1].append(item.slot)
        if not by_slots:
            raise Stopped
        extra = frozenset().union(*(item.request.extra_outputs for item in items))
        end = 0
        ranges = []
        for slots, numbers in by_slots.values():
            start, end = end, end + len(numbers)
            ranges.append((slots, numbers, start, end))
            for row in self._layout.inputs:
                # All numbers are of slots that there are; any other mode than "raise" copies without a detour.
                slots.arrays[row.name].take(numbers, axis=0, out=slabs[row.name][start:end], mode="clip")
        stop.check()

        # Rows past the images hold what was there before; their outputs are dropped.
        rows = self._rows(end)
        feeds = {name: slab[:rows] for name, slab in slabs.items() if name != contract.IMAGES}
        if self._takes_iou_threshold:
            feeds[contract.IOU_THRESHOLD] = np.array([items[0].request.iou_threshold], np.float32)
        began = time.perf_counter()
        outputs = self._network.run(
            slabs[contract.IMAGES][:rows], feeds, extra, stop.when_requested, alone=alone
        )
        # A batch that hung and was answered for may come back when its slots are other images'.
        stop.check()
        ran = Ran(time.perf_counter() - began, end)
        for slots, numbers, start, end in ranges:
            for name, values in outputs.items():
                slots.arrays[name][numbers] = values[start:end]
        return [ran if item.request.lease in held else _left() for item in items]

    @contextmanager
    def _in_slabs(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """What a batch lies in while it runs."""
        # On GPUs each in turn, since it says which of them runs.
        slabs = self._slabs.pop(0 if self._fill_up else -1) if self._slabs else self._new_slabs()
        try:
            yield slabs
        finally:
            self._slabs.append(slabs)

    def _rows(self, images: int) -> int:
        """How many rows the network runs for so many images."""
        return next(size for size in self._batch_sizes if size >= images) if self._fill_up else images

    def _new_slabs(self) -> dict[str, npt.NDArray[Any]]:
        slabs = {
            row.name: np.zeros((self.max_batch_size, *row.shape), row.dtype) for row in self._layout.inputs
        }
        if self._new_slab is not None:
            slabs[contract.IMAGES] = self._new_slab()
        return slabs


def _left() -> RetinueError:
    return EngineError("the image was not run, since its caller had left.")
