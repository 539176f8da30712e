"""Decodes, resizes and runs as fast as it can, with no server around it, in processes of its own.

It calls the server's own `prepare` and a bare ONNX Runtime session.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from retinue_server.bundle import manifest as manifests
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.readers import ChannelOrder, Opened
from retinue_server.vision.resize import prepare

_MAX_PIXELS = 50_000_000
_LONGEST_WARMING_SECONDS = 1.0
_PATIENCE_SECONDS = 120
_FEWEST_BATCHES = 2
"""Of each worker: where they take long, so does the measurement."""
_barrier: Barrier | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How the machine is used.

    Attributes:
        processes: How many there are.
        workers: Threads of each that prepare and run batches of their own, in one session.
        threads: Of each run.
        spinning: Whether a run's threads spin while they wait for work.
        batch: Images of each run.
    """

    processes: int
    workers: int
    threads: int
    spinning: bool
    batch: int

    @property
    def lone(self) -> bool:
        """Whether an image has the machine to itself."""
        return self.processes == self.workers == self.batch == 1

    def with_batch(self, batch: int) -> "Setting":
        """The same with another size of batches."""
        return replace(self, batch=batch)

    def __str__(self) -> str:
        """In words."""
        spinning = ", spinning" if self.spinning else ""
        return (
            f"{_count(self.processes, 'process', 'es')} of {_count(self.workers, 'worker')} of "
            f"{_count(self.threads, 'thread')}{spinning}, batch {self.batch}"
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a setting reached.

    Attributes:
        setting: Which.
        images_per_second: All processes and workers together.
        cpu_seconds_per_image: Likewise.
        batch_ms: Median time of a batch, from its first image's bytes to its answers.
    """

    setting: Setting
    images_per_second: float
    cpu_seconds_per_image: float
    batch_ms: float


@dataclass(frozen=True, slots=True)
class _Job:
    """What one process does; see `measure`."""

    bundle: Path
    image: bytes | npt.NDArray[np.uint8]
    setting: Setting
    seconds: float


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process did."""

    images_per_second: float
    cores_used: float
    batch_ms: float


def measure(
    bundle: Path, image: bytes | npt.NDArray[np.uint8], setting: Setting, seconds: float
) -> Measurement:
    """Answers the same image again and again.

    Args:
        bundle: Of the classifier that answers.
        image: An image file, or pixels uint8 [H,W,1 or 3].
        setting: How.
        seconds: For how long at least, after a warm-up.
    """
    job = _Job(bundle, image, setting, seconds)
    running = [_pool(setting.processes).submit(_run, job) for _ in range(setting.processes)]
    shares = [process.result() for process in running]
    images_per_second = sum(share.images_per_second for share in shares)
    return Measurement(
        setting,
        images_per_second,
        cpu_seconds_per_image=sum(share.cores_used for share in shares) / images_per_second,
        batch_ms=median(share.batch_ms for share in shares),
    )


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Processes that are kept, since starting one takes as long as some measurements."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _join, (context.Barrier(processes),))


def _join(barrier: Barrier) -> None:
    # A barrier can be handed to a process only when that is made.
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def _run(job: _Job) -> _Share:
    assert _barrier is not None
    spec = manifests.input_spec(manifests.read(job.bundle))
    session = _session(job.bundle / manifests.MODEL_FILE, job.setting)
    opened = _opener(job.image)
    stop = threading.Event()
    # The seconds that each batch took, by worker.
    batches: list[list[float]] = [[] for _ in range(job.setting.workers)]

    def work(took: list[float]) -> None:
        slab = np.zeros((job.setting.batch, spec.height, spec.width, spec.channels), np.uint8)
        while not stop.is_set():
            began = time.perf_counter()
            for row in slab:
                prepare(opened(), spec, row)
            session.run(["probabilities"], {"images": slab})
            took.append(time.perf_counter() - began)

    workers = [threading.Thread(target=work, args=(took,)) for took in batches]
    for worker in workers:
        worker.start()
    try:
        # The first runs allocate and warm up.
        time.sleep(min(_LONGEST_WARMING_SECONDS, job.seconds / 3))
        _barrier.wait(_PATIENCE_SECONDS)
        done_before = [len(took) for took in batches]
        cpu_before, began = time.process_time(), time.perf_counter()
        ending = began + job.seconds
        while time.perf_counter() < ending or not _enough(batches, done_before):
            time.sleep(max(0.01, ending - time.perf_counter()))
        counted = [took[before:] for took, before in zip(batches, done_before, strict=True)]
        cores_used = (time.process_time() - cpu_before) / (time.perf_counter() - began)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    # Of whole batches, so that it does not matter which were cut at either end.
    images_per_second = sum(job.setting.batch * len(took) / sum(took) for took in counted)
    return _Share(
        images_per_second, cores_used, 1000 * median(seconds for took in counted for seconds in took)
    )


def _enough(batches: list[list[float]], done_before: list[int]) -> bool:
    return all(
        len(took) >= before + _FEWEST_BATCHES for took, before in zip(batches, done_before, strict=True)
    )


def _opener(image: bytes | npt.NDArray[np.uint8]) -> Callable[[], Opened]:
    """What opens the image as the server does."""
    if isinstance(image, bytes):
        return lambda: open_encoded(image, max_pixels=_MAX_PIXELS)
    height, width, channels = image.shape
    order: ChannelOrder = "GRAY" if channels == 1 else "RGB"
    pixels = image.tobytes()
    return lambda: open_raw(pixels, height, width, order, max_pixels=_MAX_PIXELS)


def _session(path: Path, setting: Setting) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting.spinning)))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
