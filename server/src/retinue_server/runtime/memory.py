"""Device memory, as NVIDIA's management library counts it."""

from contextlib import suppress
from dataclasses import dataclass

try:
    import pynvml
except ImportError:
    pynvml = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one GPU.

    Attributes:
        device: Its number.
        used_bytes: Taken by all processes.
        total_bytes: What it has.
    """

    device: int
    used_bytes: int
    total_bytes: int


def read_devices() -> list[DeviceMemory]:
    """The memory of every GPU the driver shows; empty where there is none, or retinue-server[gpu] is not installed."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        devices = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            # Some devices have no memory of their own to tell of, and some users may not ask.
            with suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number))
                devices.append(DeviceMemory(number, int(memory.used), int(memory.total)))
        return devices
    finally:
        pynvml.nvmlShutdown()


def device_memory_used_bytes() -> int:
    """Bytes taken on all GPUs together."""
    return sum(device.used_bytes for device in read_devices())
