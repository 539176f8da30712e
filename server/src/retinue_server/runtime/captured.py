"""Models that run on a GPU as CUDA graphs: one call starts all of a batch's kernels.

For each slab and size of batches there is a graph. Its pixels and answers have fixed places on the device. A batch is
copied there on a stream of its slab while the network runs on another batch, and the network is started on the next
batch before it is done with this one: events, on the device, say what waits for what. ONNX Runtime keeps graphs for the
thread that captured them, so one thread for each GPU starts them all. What lies between input and outputs is in the
same memory for all graphs of a session, so they run one after the other, on one stream.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from retinue_server.runtime.contract import IMAGES
from retinue_server.runtime.cudart import CudaRuntime
from retinue_server.runtime.providers import CUDA, ProviderOptions

Array = npt.NDArray[Any]
Images = npt.NDArray[np.uint8]
Feeds = Mapping[str, Array]
Open = Callable[[int, Mapping[str, ProviderOptions]], ort.InferenceSession]

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"
_RETURN_AT_ONCE = ("disable_synchronize_execution_providers", "1")

# A graph runs the same kernels as the run that it was captured from.
_TOLERANCE = 1e-3
_LEAST_EQUAL_CLASSES = 0.99
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a model lies where batches do.

    Attributes:
        image_shape: H, W, C.
        outputs: Of each output, its element type and the shape of one row.
    """

    image_shape: tuple[int, ...]
    outputs: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]


class CaptureGate:
    """Keeps captures apart from all else that runs on the process's GPUs.

    While a graph is captured, no thread may ask CUDA for memory or copy without a stream, and ONNX Runtime may do so in
    a run. Source: NVIDIA, CUDA Runtime API, cudaStreamCaptureModeGlobal, which is what it captures with.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._capturing = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held by what captures nothing; many may at once."""
        with self._condition:
            self._condition.wait_for(lambda: not self._capturing)
            self._running += 1
        try:
            yield
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Held by a run that captures.

        Raises:
            TimeoutError: Something runs for too long: what hangs must not keep everything else waiting.
        """
        with self._condition:
            self._condition.wait_for(lambda: not self._capturing)
            self._capturing = True
            quiet = self._condition.wait_for(lambda: not self._running, _LONGEST_WAIT_SECONDS)
        try:
            if not quiet:
                raise TimeoutError("other batches ran for too long to capture this one")
            yield
        finally:
            with self._condition:
                self._capturing = False
                self._condition.notify_all()


gate = CaptureGate()


class Captured:
    """A session on one GPU whose runs, of batches of one size, are captured.

    Args:
        open_session: Opens it on a device, with more options for its provider.
        cuda: The CUDA runtime.
        device: The GPU.
        thread: Runs whatever this session is asked for.

    Raises:
        Exception: ONNX Runtime does not give all of the network to CUDA.
    """

    def __init__(
        self, open_session: Open, cuda: CudaRuntime, device: int, thread: ThreadPoolExecutor
    ) -> None:
        self._cuda = cuda
        self._device = device
        self._thread = thread
        self._graph_ids = itertools.count(1)
        with gate.running():
            cuda.use(device)
            self._stream = cuda.stream()
            options = {CUDA: {"enable_cuda_graph": "1", "user_compute_stream": str(self._stream)}}
            self.session = thread.submit(open_session, device, options).result()

    def next_graph_id(self) -> str:
        """ONNX Runtime's name of a graph that is to be captured."""
        return str(next(self._graph_ids))

    def start(self, binding: ort.IOBinding, options: ort.RunOptions, *, after: int, then: int) -> None:
        """Starts a run after an event, and lets another happen when it is done."""
        self._thread.submit(self._start, binding, options, after, then).result()

    def _start(self, binding: ort.IOBinding, options: ort.RunOptions, after: int, then: int) -> None:
        self._cuda.use(self._device)
        self._cuda.wait_on_device(after, self._stream)
        self.session.run_with_iobinding(binding, options)
        self._cuda.record(then, self._stream)

    def run_uncaptured(self, images: Images, names: Sequence[str]) -> list[Array]:
        """Runs a batch as a session without graphs does."""
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
        with gate.running():
            answers: list[Array] = self._thread.submit(
                self.session.run, names, {IMAGES: images}, options
            ).result()
        return answers

    def end_capture(self) -> None:
        """Ends what a failed run has begun to capture; until then the process is in it."""
        self._thread.submit(self._cuda.end_capture, self._stream).result()


class CapturedPlace:
    """A slab, the places of its pixels and answers on the device, and a graph for each size of batches.

    Args:
        cuda: The CUDA runtime.
        device: The GPU.
        by_rows: The session that runs each size, ascending.
        layout: The model's.

    Attributes:
        images: The slab, uint8 [most rows,H,W,C].
        device: As given.
    """

    def __init__(
        self, cuda: CudaRuntime, device: int, by_rows: Mapping[int, Captured], layout: Layout
    ) -> None:
        self.device = device
        self._cuda = cuda
        self._by_rows = by_rows
        most = max(by_rows)
        with gate.running():
            cuda.use(device)
            self.images: Images = cuda.page_locked((most, *layout.image_shape), np.uint8)
            self._pixels = self._on_device(self.images)
            self._answers: dict[str, tuple[Array, ort.OrtValue]] = {}
            for name, (dtype, shape) in layout.outputs.items():
                answers = cuda.page_locked((most, *shape), dtype)
                self._answers[name] = answers, self._on_device(answers)
            self._stream = cuda.stream()
            self._arrived, self._computed, self._answered = cuda.event(), cuda.event(), cuda.event()
            self._graphs = {
                rows: (self._bound(rows, model.session), model.next_graph_id())
                for rows, model in by_rows.items()
            }

    def _on_device(self, array: Array) -> ort.OrtValue:
        memory = self._cuda.memory
        return ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, memory, self.device)

    def _bound(self, rows: int, session: ort.InferenceSession) -> ort.IOBinding:
        binding = session.io_binding()
        where = self._cuda.memory, self.device
        shape = (rows, *self.images.shape[1:])
        binding.bind_input(IMAGES, *where, np.uint8, shape, self._pixels.data_ptr())
        for name, (answers, on_device) in self._answers.items():
            shape = (rows, *answers.shape[1:])
            binding.bind_output(name, *where, answers.dtype, shape, on_device.data_ptr())
        return binding

    def run(self, rows: int, feeds: Feeds, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        """Runs the first rows of the slab; what comes is overwritten by the next run here."""
        with gate.running():
            return self._run(rows, names, options)

    def capture(self, rows: int) -> None:
        """Captures the graph of a size, by running it for the first time."""
        with gate.capturing():
            self._run(rows, (), ort.RunOptions())

    def _run(self, rows: int, names: Sequence[str], options: ort.RunOptions) -> list[Array]:
        binding, graph_id = self._graphs[rows]
        options.add_run_config_entry(_GRAPH_ID, graph_id)
        options.add_run_config_entry(*_RETURN_AT_ONCE)
        cuda = self._cuda
        cuda.use(self.device)
        cuda.copy_to_device(self._pixels.data_ptr(), self.images[:rows], self._stream)
        cuda.record(self._arrived, self._stream)
        self._by_rows[rows].start(binding, options, after=self._arrived, then=self._computed)
        cuda.wait_on_device(self._computed, self._stream)
        answered = []
        for name in names:
            answers, on_device = self._answers[name]
            cuda.copy_to_host(answers[:rows], on_device.data_ptr(), self._stream)
            answered.append(answers[:rows])
        cuda.record(self._answered, self._stream)
        cuda.wait(self._answered)
        return answered


def capture(
    open_session: Open,
    cuda: CudaRuntime,
    layout: Layout,
    *,
    batch_sizes: Sequence[int],
    devices: Sequence[int],
) -> list[CapturedPlace]:
    """Captures a model, and holds what its graphs answer against what the network does.

    Args:
        open_session: As for `Captured`.
        cuda: The CUDA runtime.
        layout: The model's.
        batch_sizes: Ascending.
        devices: The GPU of each place.

    Raises:
        Exception: It cannot be captured, or its graphs answer something else.
    """
    models: dict[int, dict[int, Captured]] = {}
    try:
        for device in dict.fromkeys(devices):
            thread = ThreadPoolExecutor(1, f"gpu-{device}")
            of_device = models[device] = {}
            for rows in batch_sizes:
                of_device[rows] = Captured(open_session, cuda, device, thread)
        places = [CapturedPlace(cuda, device, models[device], layout) for device in devices]
        _capture_and_check(models, places, list(layout.outputs))
    except Exception:
        for of_device in models.values():
            for model in of_device.values():
                model.end_capture()
        raise
    return places


def _capture_and_check(
    models: Mapping[int, Mapping[int, Captured]], places: Sequence[CapturedPlace], names: Sequence[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, places[0].images.shape, np.uint8)
    expected: dict[tuple[int, int], list[Array]] = {}
    for device, of_device in models.items():
        for rows, model in of_device.items():
            expected[device, rows] = model.run_uncaptured(noise[:rows], names)
    for place in places:
        for rows in models[place.device]:
            # On other pixels, so that a graph that answers the same for ever is found out.
            place.images[:rows] = 0
            place.capture(rows)
    for place in places:
        for rows in models[place.device]:
            place.images[:rows] = noise[:rows]
            answered = place.run(rows, {}, names, ort.RunOptions())
            for name, by_network, by_graph in zip(names, expected[place.device, rows], answered, strict=True):
                if not _alike(by_network, by_graph):
                    raise ValueError(f"its graph for {rows} images gives other {name} than the network does")


def _alike(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    if np.issubdtype(first.dtype, np.floating):
        return np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
    return float(np.mean(first == second)) >= _LEAST_EQUAL_CLASSES
