"""The most that a machine can do: decode, resize and `session.run` in one process, with no server around them.

It calls the server's own `prepare` and a bare ONNX Runtime session, at every thread and batch setting worth trying.
"""

import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle import manifest as manifests
from retinue_server.runtime.providers import available_cores
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.resize import prepare

_BATCHES = (1, 2, 4, 8)
_OUTPUT = {pb.TASK_CLASSIFY: "probabilities"}


@dataclass(frozen=True, slots=True)
class Setting:
    """`workers` threads, each with its own batches, and `intra_op_threads` inside each run."""

    workers: int
    intra_op_threads: int
    batch: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one setting reaches.

    Attributes:
        setting: Which.
        images_per_second: All workers together.
        cpu_seconds_per_image: Of the process.
    """

    setting: Setting
    images_per_second: float
    cpu_seconds_per_image: float

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def settings() -> list[Setting]:
    """One single-threaded worker a core, and one worker with all cores, at each batch size."""
    cores = available_cores()
    plans = {(cores, 1), (1, cores)}
    return [Setting(workers, threads, batch) for workers, threads in sorted(plans) for batch in _BATCHES]


def measure(bundle: Path, images: list[bytes], setting: Setting, seconds: float) -> Measurement:
    """Runs one setting for about `seconds`."""
    manifest = manifests.read(bundle)
    spec = manifests.input_spec(manifest)
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.intra_op_threads
    options.inter_op_num_threads = 1
    # As in the server: a waiting thread that spins costs CPU time for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(bundle / manifests.MODEL_FILE, options, providers=["CPUExecutionProvider"])
    outputs = [_OUTPUT[manifest.task]]
    counts = [0] * setting.workers
    stop = threading.Event()

    def work(number: int) -> None:
        slab = np.zeros((setting.batch, spec.height, spec.width, spec.channels), np.uint8)
        position = number
        while not stop.is_set():
            for row in slab:
                prepare(open_encoded(images[position % len(images)], max_pixels=50_000_000), spec, row)
                position += 1
            session.run(outputs, {"images": slab})
            counts[number] += setting.batch

    threads = [threading.Thread(target=work, args=(number,)) for number in range(setting.workers)]
    for thread in threads:
        thread.start()
    # The first runs allocate and warm up.
    time.sleep(min(1.0, seconds / 4))
    images_before, cpu_before, began = sum(counts), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    done, cpu, elapsed = (
        sum(counts) - images_before,
        time.process_time() - cpu_before,
        time.perf_counter() - began,
    )
    stop.set()
    for thread in threads:
        thread.join()
    return Measurement(setting, done / elapsed, cpu / done)


def best(bundle: Path, images: list[bytes], seconds_each: float) -> Measurement:
    """The setting with the most images a second."""
    tried = [measure(bundle, images, setting, seconds_each) for setting in settings()]
    return max(tried, key=lambda measurement: measurement.images_per_second)
