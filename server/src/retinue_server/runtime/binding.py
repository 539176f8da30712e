"""How a model runs on GPUs: where its batches lie, and which sessions run them.

A batch is decoded into a slab of page-locked memory, from which the GPU takes it without a copy in between. Slabs are
spread over the GPUs, so the slab that a batch is decoded into says where it runs; all GPUs empty one queue.

A network that takes images alone, and all of which ONNX Runtime gives to CUDA, is captured where the setting allows
it, see `captured`. Others run as they are. Either way a session of the CUDA provider runs batches of one size, and
there are three, for a lone image, for a few, and for the largest batch: ONNX Runtime keeps cuDNN's plans for the
latest shape of a convolution only (`Conv::UpdateState` in its core/providers/cuda/nn/conv.cc), so that it would take
up to seconds to make them anew when the size changes, and would throw away the kernels of graphs that were captured
before.
"""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnxruntime as ort
import structlog

from retinue_server.runtime.captured import Array, Feeds, Images, Layout, Open, capture, gate
from retinue_server.runtime.contract import IMAGES
from retinue_server.runtime.cudart import CudaRuntime

_log = structlog.get_logger(__name__)

_SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"


class Place(Protocol):
    """Where one batch at a time lies and runs.

    Attributes:
        images: The slab, uint8 [most rows,H,W,C].
    """

    images: Images

    def run(self, rows: int, feeds: Feeds, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        """Runs the first rows of the slab; what comes may be overwritten by the next run here."""
        ...


class Plain:
    """A session on one GPU. While it runs a batch, those of other threads are copied.

    Args:
        session: The session.
        device: The GPU.
        turns: Held by those who run on it.
    """

    def __init__(self, session: ort.InferenceSession, device: int, turns: threading.Semaphore) -> None:
        self.session = session
        self._device = device
        self._turns = turns

    def run(self, fed: Feeds, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        """Runs one batch."""
        with gate.running():
            binding = self.session.io_binding()
            for name, array in fed.items():
                # Copies it to where the network takes it.
                binding.bind_cpu_input(name, array)
            for name in names:
                binding.bind_output(name, "cpu")
            with self._turns:
                self.session.run_with_iobinding(binding, options)
            return [output.numpy() for output in binding.get_outputs()]

    def shrink_memory(self, fed: Feeds, names: Sequence[str]) -> None:
        """Gives back what the arena holds, after a spike such as a measurement, and takes what this batch needs."""
        options = ort.RunOptions()
        options.add_run_config_entry(_SHRINK_ARENA, f"gpu:{self._device}")
        with gate.running():
            self.session.run(names, dict(fed), options)
        self.run(fed, names, ort.RunOptions())


class _PlainPlace:
    """A slab, and what runs each size of batches from it."""

    def __init__(self, images: Images, by_rows: Mapping[int, Plain]) -> None:
        self.images = images
        self._by_rows = by_rows

    def run(self, rows: int, feeds: Feeds, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        return self._by_rows[rows].run({IMAGES: self.images[:rows], **feeds}, names, options)


class GpuModel:
    """A model on the GPUs of a machine.

    Args:
        open_session: Opens it on a device, with more options for its provider.
        devices: The GPUs.
        cuda: The CUDA runtime; None where slabs lie in ordinary memory, and nothing is captured.
        name: Of the model, for the log.

    Attributes:
        captured: Whether it runs as CUDA graphs.
    """

    def __init__(
        self, open_session: Open, devices: Sequence[int], cuda: CudaRuntime | None, name: str
    ) -> None:
        self._open = open_session
        self._devices = devices
        self._cuda = cuda
        self._name = name
        self.captured = False
        # The first GPU's, which runs batches of any size until the model is prepared.
        self._first: Plain | None = Plain(self._opened(devices[0]), devices[0], threading.Semaphore(1))
        self._places: dict[int, Place] = {}
        self._unused: list[Place] = []

    @property
    def session(self) -> ort.InferenceSession:
        """What the model was opened as, until it is prepared."""
        assert self._first is not None
        return self._first.session

    def run(self, images: Images, feeds: Feeds, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        """Runs images: any until the model is prepared, then those from the beginning of a slab, on the slab's GPU."""
        if self._first is not None:
            return self._first.run({IMAGES: images, **feeds}, names, options)
        return self._places[_address(images)].run(len(images), feeds, names, options)

    def prepare(
        self,
        batch_sizes: Sequence[int],
        feeds: Callable[[int], Feeds],
        layout: Layout,
        *,
        slabs: int,
        capturable: bool,
        one_size_a_session: bool,
    ) -> tuple[int, ...]:
        """Makes the slabs, and runs all that will be run: a GPU's libraries take their time over whatever is new.

        Args:
            batch_sizes: Ascending.
            feeds: Makes what the network takes beside so many images.
            layout: The model's.
            slabs: How many batches lie in memory at once, on all GPUs together.
            capturable: Whether to try to capture it.
            one_size_a_session: Whether a session is to run batches of one size only.

        Returns:
            The sizes that may be run from now on.

        Raises:
            Exception: The network cannot run one of them.
        """
        if one_size_a_session:
            few = (batch_sizes[0], batch_sizes[len(batch_sizes) // 2], batch_sizes[-1])
            batch_sizes = sorted(set(few))
        devices = list(itertools.islice(itertools.cycle(self._devices), slabs))
        places: Sequence[Place] = ()
        if capturable and self._cuda is not None:
            try:
                places = capture(self._open, self._cuda, layout, batch_sizes=batch_sizes, devices=devices)
            except Exception as error:
                # ONNX Runtime and CUDA raise classes of their own. The network may run all the same, without graphs.
                _log.warning("model_not_captured", model=self._name, reason=str(error).strip())
        self.captured = bool(places)
        if not places:
            by_device = {}
            for device in dict.fromkeys(devices):
                # One of a GPU's batches is filled while the others run.
                turns = threading.Semaphore(max(1, devices.count(device) - 1))
                by_device[device] = self._warm(device, batch_sizes, feeds, layout, one_size_a_session, turns)
            shape = (batch_sizes[-1], *layout.image_shape)
            places = [_PlainPlace(self._slab(shape), by_device[device]) for device in devices]
        self._first = None
        self._places = {_address(place.images): place for place in places}
        self._unused = list(places)
        return tuple(batch_sizes)

    def new_slab(self) -> Images:
        """One of the slabs, each once; those that come one after the other are different GPUs' if there are several."""
        return self._unused.pop(0).images

    def _warm(
        self,
        device: int,
        batch_sizes: Sequence[int],
        feeds: Callable[[int], Feeds],
        layout: Layout,
        one_size_a_session: bool,
        turns: threading.Semaphore,
    ) -> dict[int, Plain]:
        """What runs each size on a GPU, once it has."""
        session = self.session if device == self._devices[0] else self._opened(device)
        by_rows: dict[int, Plain] = {}
        for rows in reversed(batch_sizes):
            if by_rows and one_size_a_session:
                session = self._opened(device)
            by_rows[rows] = plain = Plain(session, device, turns)
            fed = {IMAGES: np.zeros((rows, *layout.image_shape), np.uint8), **feeds(rows)}
            names = list(layout.outputs)
            if rows == batch_sizes[-1]:
                plain.shrink_memory(fed, names)
            else:
                plain.run(fed, names, ort.RunOptions())
        return by_rows

    def _opened(self, device: int) -> ort.InferenceSession:
        with gate.running():
            return self._open(device, {})

    def _slab(self, shape: tuple[int, ...]) -> Images:
        return np.zeros(shape, np.uint8) if self._cuda is None else self._cuda.page_locked(shape, np.uint8)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
