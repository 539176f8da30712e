import ctypes
import gc
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from structlog.testing import capture_logs

from retinue_server.runtime import cudart
from retinue_server.runtime.cudart import CudaError, CudaRuntime


class Function:
    """One of a library's."""

    def __init__(self, library: "Library", name: str) -> None:
        self._library = library
        self._name = name
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        # As ctypes checks them.
        if self._name != "cudaFreeHost":
            for kind, argument in zip(self.argtypes, arguments, strict=True):
                kind.from_param(argument)
        return self._library.called(self._name, arguments)


class Library:
    """Stands for the CUDA runtime's library; notes what is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.status = 0
        self._functions: dict[str, Function] = {}
        self._memory: list[Any] = []

    def __getattr__(self, name: str) -> Function:
        assert name.startswith("cuda")
        return self._functions.setdefault(name, Function(self, name))

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "cudaGetErrorString":
            return b"out of memory"
        out = [argument._obj for argument in arguments if hasattr(argument, "_obj")]
        self.calls.append((name, *(one for one in arguments if not hasattr(one, "_obj"))))
        if name == "cudaHostAlloc":
            self._memory.append(ctypes.create_string_buffer(b"\xff" * arguments[1]))
            out[0].value = ctypes.addressof(self._memory[-1])
        elif out:
            out[0].value = 40 + len(self.calls)
        return self.status


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def cuda(library: Library) -> CudaRuntime:
    return CudaRuntime(library)  # type: ignore[arg-type]


def test_page_locked_memory_is_an_array_that_frees_itself(cuda: CudaRuntime, library: Library) -> None:
    array = cuda.page_locked((2, 3), np.float32)
    # It may be written by any GPU.
    assert library.calls == [("cudaHostAlloc", 24, 1)]
    assert array.shape == (2, 3)
    assert array.dtype == np.float32
    assert not array.any()
    row = array[1]
    address = array.ctypes.data
    del array
    gc.collect()
    assert len(library.calls) == 1
    del row
    gc.collect()
    assert library.calls[1:] == [("cudaFreeHost", address)]


def test_streams_wait_for_events_and_threads_sleep_over_them(cuda: CudaRuntime, library: Library) -> None:
    cuda.use(3)
    stream, event = cuda.stream(), cuda.event()
    cuda.record(event, stream)
    cuda.wait_on_device(event, stream)
    cuda.wait(event)
    cuda.end_capture(stream)
    assert library.calls == [
        ("cudaSetDevice", 3),
        # It does not wait for the stream that has no name.
        ("cudaStreamCreateWithFlags", 1),
        # Whoever waits for it sleeps, and nobody asks when it happened.
        ("cudaEventCreateWithFlags", 1 | 2),
        ("cudaEventRecord", event, stream),
        ("cudaStreamWaitEvent", stream, event, 0),
        ("cudaEventSynchronize", event),
        ("cudaStreamEndCapture", stream),
    ]


def test_copies_go_where_they_should(cuda: CudaRuntime, library: Library) -> None:
    array = np.zeros((2, 5), np.uint8)
    cuda.copy_to_device(7000, array, 9)
    cuda.copy_to_host(array[1:], 8000, 9)
    address = array.ctypes.data
    assert library.calls == [
        ("cudaMemcpyAsync", 7000, address, 10, 1, 9),
        ("cudaMemcpyAsync", address + 5, 8000, 5, 2, 9),
    ]


def test_what_fails_says_why(cuda: CudaRuntime, library: Library) -> None:
    library.status = 2
    with pytest.raises(CudaError, match=r"cudaHostAlloc failed: out of memory \(CUDA error 2\)"):
        cuda.page_locked((1,), np.uint8)
    # There may be none to end.
    cuda.end_capture(1)


def test_the_runtime_that_onnx_runtime_uses_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "")
    assert cudart.load() is None
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    loaded: list[str] = []

    def load(name: str) -> Library:
        loaded.append(name)
        return Library()

    monkeypatch.setattr(cudart, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": load}))
    assert cudart.load() is not None
    assert loaded == ["libcudart.so.13"]


def test_a_runtime_that_is_missing_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "99.0")
    with capture_logs() as logged:
        assert cudart.load() is None
    assert [event["event"] for event in logged] == ["cuda_runtime_not_found"]


def real_library() -> Path | None:
    """NVIDIA's own, which PyTorch brings along."""
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package else []
    found = (library for folder in folders for library in Path(folder).glob("cu*/lib/libcudart.so.*"))
    return next(found, None)


@pytest.mark.skipif(real_library() is None, reason="NVIDIA's CUDA runtime is not installed")
def test_nvidias_library_has_all_functions_and_says_what_is_missing() -> None:
    cuda = CudaRuntime(ctypes.CDLL(str(real_library())))
    if cuda.device_count():
        array = cuda.page_locked((4,), np.uint8)
        assert not array.any()
        return
    with pytest.raises(CudaError, match=r"cudaHostAlloc failed: .*(driver|device)"):
        cuda.page_locked((4,), np.uint8)
