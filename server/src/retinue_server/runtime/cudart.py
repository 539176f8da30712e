"""What ONNX Runtime's Python leaves out of NVIDIA's CUDA runtime: page-locked memory, streams, events and copies.

ONNX Runtime 1.31 gives Python page-locked memory, and streams to copy on, only for providers that are loaded as plugins
(its pull requests 28038 and 26988), and its own CUDA provider is none: `get_ep_devices()` of onnxruntime-gpu names the
CPU alone. What it does give copies from memory that the driver must first copy itself, holding the interpreter's lock.
So these functions are called in the library that ONNX Runtime has loaded itself; ctypes releases the lock meanwhile.

Source: NVIDIA, CUDA Runtime API, whose names these are.
"""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import structlog

_log = structlog.get_logger(__name__)

# Of the runtime's header files.
_HOST_ALLOC_PORTABLE = 0x01
_STREAM_NON_BLOCKING = 0x01
# A thread that waits for an event sleeps; else it would take a core from the decoders.
_EVENT_BLOCKING_SYNC = 0x01
_EVENT_DISABLE_TIMING = 0x02
_MEMCPY_HOST_TO_DEVICE = 1
_MEMCPY_DEVICE_TO_HOST = 2

_HANDLE = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(ctypes.c_int),),
    "cudaSetDevice": (ctypes.c_int,),
    "cudaHostAlloc": (ctypes.POINTER(_HANDLE), ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (_HANDLE,),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(_HANDLE), ctypes.c_uint),
    "cudaEventCreateWithFlags": (ctypes.POINTER(_HANDLE), ctypes.c_uint),
    "cudaEventRecord": (_HANDLE, _HANDLE),
    "cudaEventSynchronize": (_HANDLE,),
    "cudaStreamWaitEvent": (_HANDLE, _HANDLE, ctypes.c_uint),
    "cudaStreamEndCapture": (_HANDLE, ctypes.POINTER(_HANDLE)),
    "cudaMemcpyAsync": (_HANDLE, _HANDLE, ctypes.c_size_t, ctypes.c_int, _HANDLE),
}


class CudaError(RuntimeError):
    """A function of the CUDA runtime failed."""


class CudaRuntime:
    """The CUDA runtime of this process.

    A thread's streams, events and copies are those of the device that it uses. Streams and events last as long as the
    process: a server makes a few for each model.

    Args:
        library: The runtime's.

    Attributes:
        memory: ONNX Runtime's name of a device's memory.
    """

    memory = "cuda"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        library.cudaGetErrorString.argtypes = (ctypes.c_int,)
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def device_count(self) -> int:
        """How many devices this process sees, 0 where the driver is missing."""
        count = ctypes.c_int(0)
        self._library.cudaGetDeviceCount(ctypes.byref(count))
        return count.value

    def use(self, device: int) -> None:
        """Makes a device the calling thread's."""
        self._call("cudaSetDevice", device)

    def page_locked(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of zeros that the GPUs read and write without a copy in between. It is freed as any other is."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = _HANDLE()
        self._call("cudaHostAlloc", ctypes.byref(address), size, _HOST_ALLOC_PORTABLE)
        assert address.value is not None
        buffer = (ctypes.c_ubyte * size).from_address(address.value)
        # What is mapped when the process ends goes with it, and the runtime perhaps before.
        weakref.finalize(buffer, self._library.cudaFreeHost, address.value).atexit = False
        array: npt.NDArray[Any] = np.frombuffer(memoryview(buffer), dtype).reshape(shape)
        array[...] = 0
        return array

    def stream(self) -> int:
        """A new stream, which waits for no other unless it is told to."""
        return self._created("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING)

    def end_capture(self, stream: int) -> None:
        """Ends the capture of a stream, if there is one, and drops what was captured."""
        # It fails where there is none, or it was broken off; either way there is none then.
        self._library.cudaStreamEndCapture(stream, ctypes.byref(_HANDLE()))

    def event(self) -> int:
        """A new event."""
        return self._created("cudaEventCreateWithFlags", _EVENT_BLOCKING_SYNC | _EVENT_DISABLE_TIMING)

    def record(self, event: int, stream: int) -> None:
        """Lets an event happen when all is done that the stream was given so far."""
        self._call("cudaEventRecord", event, stream)

    def wait_on_device(self, event: int, stream: int) -> None:
        """Lets a stream do what it is given from now on only after an event, while the calling thread goes on."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait(self, event: int) -> None:
        """Waits for an event.

        Raises:
            CudaError: What was to be done before has failed.
        """
        self._call("cudaEventSynchronize", event)

    def copy_to_device(self, device_address: int, array: npt.NDArray[Any], stream: int) -> None:
        """Gives a stream a contiguous array to copy, which must not change until that is done."""
        source = array.__array_interface__["data"][0]
        self._call("cudaMemcpyAsync", device_address, source, array.nbytes, _MEMCPY_HOST_TO_DEVICE, stream)

    def copy_to_host(self, array: npt.NDArray[Any], device_address: int, stream: int) -> None:
        """Gives a stream a contiguous array to fill."""
        target = array.__array_interface__["data"][0]
        self._call("cudaMemcpyAsync", target, device_address, array.nbytes, _MEMCPY_DEVICE_TO_HOST, stream)

    def _created(self, name: str, flags: int) -> int:
        handle = _HANDLE()
        self._call(name, ctypes.byref(handle), flags)
        assert handle.value is not None
        return handle.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            reason = self._library.cudaGetErrorString(status).decode()
            raise CudaError(f"{name} failed: {reason} (CUDA error {status})")


def load() -> CudaRuntime | None:
    """The CUDA runtime that ONNX Runtime uses; None where that is built without one, or there is none."""
    major = ort.cuda_version.partition(".")[0]
    if not major:
        return None
    try:
        return CudaRuntime(ctypes.CDLL(f"libcudart.so.{major}"))
    except OSError as error:
        _log.warning("cuda_runtime_not_found", reason=str(error))
        return None
