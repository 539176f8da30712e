"""A CPU that stands in for GPUs: ONNX Runtime runs on it, and whoever breaks a rule of CUDA's or of its graphs is told.

What is given to a stream happens when somebody waits for it, and not before: so a wait that was forgotten shows.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from retinue_server.runtime import cudart
from retinue_server.runtime.captured import gate
from retinue_server.runtime.providers import CPU, CUDA, Provider, cuda_options

Array = npt.NDArray[Any]
_Session = onnxruntime.InferenceSession


def provider(devices: Sequence[int] = (0,)) -> Provider:
    """What is chosen where there are such GPUs."""
    return Provider(CUDA, "cuda", "", ((CUDA, cuda_options(devices[0], 0)), (CPU, {})), tuple(devices))


@dataclass
class Stream:
    """What a stream was given, and how much of that is done."""

    device: int
    given: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0

    # Of all, since what one was given may wait for another.
    lock: ClassVar[Any] = threading.RLock()

    def finish(self, until: int) -> None:
        with self.lock:
            while self.done < until:
                self.done += 1
                self.given[self.done - 1]()


class StandInCuda:
    """As `cudart.CudaRuntime`, whose devices' memory is the host's."""

    memory = "cpu"

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, tuple[int, Stream, int] | int] = {}
        self.page_locked_arrays: list[Array] = []
        self.copies: list[tuple[str, int, bool]] = []
        self.captures_ended = 0
        self._used = threading.local()

    def device_count(self) -> int:
        return 2

    def use(self, device: int) -> None:
        self._used.device = device

    def page_locked(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        self.page_locked_arrays.append(np.zeros(shape, dtype))
        return self.page_locked_arrays[-1]

    def stream(self) -> int:
        self.streams[1000 + len(self.streams)] = Stream(self._used.device)
        return max(self.streams)

    def event(self) -> int:
        self.events[len(self.events)] = self._used.device
        return max(self.events)

    def record(self, event: int, stream: int) -> None:
        of_event = self.events[event]
        device = of_event if isinstance(of_event, int) else of_event[0]
        assert device == self.streams[stream].device, "an event is recorded on its own device's streams only"
        self.events[event] = device, self.streams[stream], len(self.streams[stream].given)

    def wait_on_device(self, event: int, stream: int) -> None:
        awaited = self.events[event]
        assert not isinstance(awaited, int), "an event that was never recorded is waited for by nobody"
        _, other, until = awaited
        self.streams[stream].given.append(lambda: other.finish(until))

    def wait(self, event: int) -> None:
        awaited = self.events[event]
        assert not isinstance(awaited, int)
        awaited[1].finish(awaited[2])

    def end_capture(self, stream: int) -> None:
        self.captures_ended += 1

    def copy_to_device(self, device_address: int, array: Array, stream: int) -> None:
        self._copy("to device", array, stream, device_address, _address(array))

    def copy_to_host(self, array: Array, device_address: int, stream: int) -> None:
        self._copy("to host", array, stream, _address(array), device_address)

    def _copy(self, where: str, array: Array, stream: int, target: int, source: int) -> None:
        assert array.flags.c_contiguous
        assert self._used.device == self.streams[stream].device
        locked = any(np.shares_memory(array, one) for one in self.page_locked_arrays)
        self.copies.append((where, self.streams[stream].device, locked))
        size = array.nbytes
        self.streams[stream].given.append(lambda: ctypes.memmove(target, source, size))


@dataclass
class StandInRuntime:
    """ONNX Runtime in place of `onnxruntime.InferenceSession`, and the rules that it has on GPUs.

    Attributes:
        cuda: The CUDA runtime.
        captures: Whether it gives all of a network to CUDA.
        breaks_in_capture: Whether a run fails while it is captured.
        replays_first_answers: Whether a graph gives for ever what it gave first.
        sessions: Those that were opened.
    """

    cuda: StandInCuda = field(default_factory=StandInCuda)
    captures: bool = True
    breaks_in_capture: bool = False
    replays_first_answers: bool = False
    sessions: list["StandInSession"] = field(default_factory=list)
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(
        self,
        path: Path,
        options: onnxruntime.SessionOptions,
        providers: list[Any],
        enable_fallback: bool = True,
    ) -> _Session:
        if CPU in providers or providers[0][0] == CPU:
            return _Session(path, options, providers=providers)
        assert not enable_fallback, "a session on a GPU must not become one on the CPU"
        chosen = dict(providers)[CUDA]
        if chosen.get("enable_cuda_graph") == "1" and not self.captures:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        session = StandInSession(self, path, options, chosen)
        self.sessions.append(session)
        return session


class StandInSession(_Session):
    """A session on the CPU that says it is on a GPU."""

    def __init__(
        self,
        runtime: StandInRuntime,
        path: Path,
        options: onnxruntime.SessionOptions,
        chosen: dict[str, str],
    ) -> None:
        super().__init__(path, options, providers=[CPU])
        self.chosen = chosen
        self.rows: list[int] = []
        self.shrunk = ""
        self._runtime = runtime
        self._captured: dict[str, tuple[Any, int]] = {}

    @property
    def is_captured(self) -> bool:
        return self.chosen.get("enable_cuda_graph") == "1"

    @property
    def device(self) -> int:
        return int(self.chosen["device_id"])

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run(self, names: Sequence[str], fed: dict[str, Array], options: Any = None) -> list[Array]:
        if self.is_captured:
            assert options.get_run_config_entry("gpu_graph_id") == "-1", "its arrays are gone at the next run"
        elif options is not None:
            # Of a GPU's arena, which the CPU has not.
            self.shrunk = options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
        self.rows.append(len(fed["images"]))
        with self._running():
            return super().run(names, fed)  # type: ignore[no-any-return]

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        if not self.is_captured:
            self._run_bound(binding)
        elif self._starts_graph(binding, options):
            stream = self._runtime.cuda.streams[int(self.chosen["user_compute_stream"])]
            stream.given.append(lambda: self._run_bound(binding))

    def _run_bound(self, binding: Any) -> None:
        with self._running():
            super().run_with_iobinding(binding)
        self.rows.append(binding.get_outputs()[0].shape()[0])

    def _starts_graph(self, binding: Any, options: Any) -> bool:
        """Checks what ONNX Runtime does not; whether the network is to be run."""
        graph = options.get_run_config_entry("gpu_graph_id")
        assert int(graph) > 0
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if graph not in self._captured:
            self._captured[graph] = binding, threading.get_ident()
            assert gate._capturing, "nothing else may run while a graph is captured"
            assert self._runtime.running == 0
            if self._runtime.breaks_in_capture:
                raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
            return True
        captured, thread = self._captured[graph]
        assert captured is binding, "a graph reads and writes where it did when it was captured"
        assert thread == threading.get_ident(), "a graph is kept for the thread that captured it"
        return not self._runtime.replays_first_answers

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self._runtime.lock:
            self._runtime.running += 1
        try:
            yield
        finally:
            with self._runtime.lock:
                self._runtime.running -= 1


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def install(monkeypatch: pytest.MonkeyPatch) -> StandInRuntime:
    """Puts a CPU in the place of GPUs."""
    runtime = StandInRuntime()
    monkeypatch.setattr(onnxruntime, "InferenceSession", runtime.open)
    monkeypatch.setattr(cudart, "load", lambda: runtime.cuda)
    return runtime
