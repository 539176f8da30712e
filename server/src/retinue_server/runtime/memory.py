"""Memory: what models take of the process's or the device's, how much they may take, and giving freed memory back."""

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import psutil

from retinue_server.errors import BundleError
from retinue_server.runtime import control_group

try:
    import pynvml
except ImportError:
    pynvml = None

# Source: mallopt(3) and glibc's malloc.h.
_M_ARENA_MAX = -8
_CORES_A_HEAP = 8
# It takes milliseconds.
_GIVE_BACK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a model takes at most, when as many of its largest batches run at once as can.

    Attributes:
        weights_bytes: The files of weights that ONNX Runtime maps or holds; on a GPU, on the device.
        arena_bytes: What ONNX Runtime's arenas hold beside them, activations above all; on a GPU, on the device.
        buffers_bytes: Images on their way into the network and answers on their way out, slots of front-ends included;
            in the process in front of a GPU, too.
        shared_bytes: What all models work in together that have no arenas of their own; in the process.
    """

    weights_bytes: int = 0
    arena_bytes: int = 0
    buffers_bytes: int = 0
    shared_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of its own."""
        return self.weights_bytes + self.arena_bytes + self.buffers_bytes

    def parts(self) -> Iterator[tuple[str, int]]:
        """What takes how much, each with its name."""
        yield "weights", self.weights_bytes
        yield "arena", self.arena_bytes
        yield "buffers", self.buffers_bytes

    @property
    def device_bytes(self) -> int:
        """What of it lies on the device, where there is one."""
        return self.weights_bytes + self.arena_bytes


class MemoryLimit:
    """How much memory models may take together, and how much they have taken.

    In front of a GPU it is the device's memory that counts, else the process's.

    Args:
        limit_bytes: The most that `own_bytes` and all models may take; 0 for no limit.
        granted_by: What sets the limit, for messages.
        own_bytes: What is taken without any model.
        requests_bytes: What is set aside for requests.
        on_device: Whether the device's memory counts.

    Attributes:
        limit_bytes: As given.
        on_device: Likewise.
    """

    def __init__(
        self,
        limit_bytes: int = 0,
        granted_by: str = "",
        own_bytes: int = 0,
        requests_bytes: int = 0,
        *,
        on_device: bool = False,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._granted_by = granted_by
        self._own_bytes = own_bytes
        self._requests_bytes = requests_bytes
        # With what models share, once, while there are such models.
        self._models_bytes = 0
        self._sharers = 0
        self.on_device = on_device
        # Models are opened anew, and given up, by threads of their own.
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        """What is taken, whether it is used already or not."""
        return self._own_bytes + self._requests_bytes + self._models_bytes

    def check(self, what: str, need: MemoryUse, *, measured: bool) -> None:
        """Refuses a model that does not fit.

        Args:
            what: Its name, for the message.
            need: What it takes.
            measured: Whether that is all; else its arena is yet to be measured.

        Raises:
            BundleError: It does not fit; the message has the arithmetic.
        """
        if not self.limit_bytes or self.taken_bytes + self._counted(need) <= self.limit_bytes:
            return
        parts = [f"weights {_mb(need.weights_bytes)}"]
        if measured and not need.shared_bytes:
            parts.append(f"arena {_mb(need.arena_bytes)}")
        if not self.on_device:
            parts.append(f"buffers {_mb(need.buffers_bytes)}")
        if not measured and not need.shared_bytes:
            parts.append("and its arena, which is measured where these fit")
        lower = ""
        if shared_bytes := self._newly_shared(need):
            parts.append(f"and {_mb(shared_bytes)} that all models without a manifest work in")
            lower = " lower --tensor-memory-limit,"
        requests = f", {_mb(self._requests_bytes)} for requests" if self._requests_bytes else ""
        raise BundleError(
            f"{what} needs {'about' if measured else 'at least'} {_mb(self._counted(need))} MB ({', '.join(parts)}), "
            f"but of the {_mb(self.limit_bytes)} MB that {self._granted_by}, {_mb(self.taken_bytes)} are taken "
            f"({_mb(self._models_bytes)} by other models{requests}); raise the limit,{lower} serve fewer models or "
            "start fewer --instances.",
            reason="MEMORY_LIMIT",
        )

    def take(self, need: MemoryUse) -> None:
        """Counts a model that is served from now on."""
        with self._lock:
            self._take(need)

    def take_checked(self, what: str, need: MemoryUse) -> None:
        """Counts a model, or refuses it as `check` does.

        Raises:
            BundleError: It does not fit.
        """
        with self._lock:
            self.check(what, need, measured=True)
            self._take(need)

    def give(self, need: MemoryUse) -> None:
        """Counts it no more."""
        with self._lock:
            self._sharers -= bool(need.shared_bytes)
            self._models_bytes -= self._counted(need)

    def _take(self, need: MemoryUse) -> None:
        self._models_bytes += self._counted(need)
        self._sharers += bool(need.shared_bytes)

    def _counted(self, need: MemoryUse) -> int:
        """What a model takes that is not among those that are counted."""
        return need.device_bytes if self.on_device else need.total_bytes + self._newly_shared(need)

    def _newly_shared(self, need: MemoryUse) -> int:
        return 0 if self.on_device or self._sharers else need.shared_bytes


def process_limit(limit_bytes: int, processes: int = 1, requests_bytes: int = 0) -> MemoryLimit:
    """The limit of models on a CPU: the one given or, where it is 0, that of the control group, or none.

    Args:
        limit_bytes: The one given.
        processes: How many processes the server has. Each counts as taking what this one takes now.
        requests_bytes: What is set aside for requests.
    """
    own_bytes = processes * resident_bytes()
    if limit_bytes:
        return MemoryLimit(limit_bytes, "--memory-limit allows", own_bytes, requests_bytes)
    return MemoryLimit(control_group_limit_bytes(), "the control group grants", own_bytes, requests_bytes)


def tensor_limit_bytes(limit_bytes: int, process_limit_bytes: int) -> int:
    """The most that networks without a manifest may work in: what is given or, where that is 0, a quarter of all.

    What they answer is copied out of that, and once more into replies, while the next ones run.

    Args:
        limit_bytes: What is given.
        process_limit_bytes: What the server may take; 0 where that is for the control group or the machine to say.
    """
    there_is = process_limit_bytes or control_group_limit_bytes() or int(psutil.virtual_memory().total)
    return limit_bytes or there_is // 4


def control_group_limit_bytes() -> int:
    """The least memory.max of the process's control group and those around it, 0 where none is set."""
    # Without a limit it says "max".
    return min((int(text) for text in control_group.read("memory.max") if text.isdecimal()), default=0)


def share_heaps(cores: int) -> None:
    """Has threads share few heaps, since each heap keeps what was freed in it for itself, up to 64 MiB.

    glibc would make eight for each core, and give back what lies in the first only. To be called before there are
    threads: those that have a heap keep it. What it does is in docs/memory.md.

    Args:
        cores: How many there are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, -(-cores // _CORES_A_HEAP))


def give_back_freed() -> None:
    """Gives memory that was freed back to the system: glibc would keep what it does not find at the end of a heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Memory of this process that is resident, with what it maps of files."""
    return int(_process(os.getpid()).memory_info().rss)


class Ceiling:
    """The most memory that this process may have.

    Args:
        most_bytes: Says how much that is now.
        held_bytes: Says how much it has.
    """

    def __init__(
        self, most_bytes: Callable[[], float], held_bytes: Callable[[], int] = resident_bytes
    ) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = held_bytes
        self._gave_back = -math.inf

    def exceeded(self) -> bool:
        """Whether it has more, also when what was freed is given back."""
        if self._held_bytes() <= self._most_bytes():
            return False
        now = time.monotonic()
        if now > self._gave_back + _GIVE_BACK_SECONDS:
            give_back_freed()
            self._gave_back = now
        return self._held_bytes() > self._most_bytes()


def private_bytes() -> int:
    """Memory of this process's own that is resident: without what it maps of files."""
    memory = _process(os.getpid()).memory_info()
    return int(memory.rss - memory.shared)


@cache
def _process(number: int) -> psutil.Process:
    # To make one takes as long as to ask it several times, and a server looks up to fifty times a second.
    return psutil.Process(number)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f}"


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
