"""Chooses the ONNX Runtime execution provider and its options."""

import base64
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort
import structlog

from retinue_server.errors import StartupError
from retinue_server.runtime import control_group, cudart
from retinue_server.runtime.cache import why_unusable

_log = structlog.get_logger(__name__)

# The highest of ONNX Runtime's severities.
FATAL = 4

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

RUNTIME_VERSION: str = ort.__version__

Requested = Literal["auto", "cpu", "cuda", "tensorrt"]
ProviderOptions = dict[str, str]
Chain = tuple[tuple[str, ProviderOptions], ...]

ALL_DEVICES = "all"

# The smallest ONNX model there is: one Identity of float32 [1], `x` to `y`, in opset 13, made with onnx.helper.
IDENTITY_MODEL = base64.b64decode(
    "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
)

_CACHE_PATH = "trt_engine_cache_path"
# Batches are measured up to the last, and TensorRT chooses what is fastest for the middle one.
_TENSORRT_ROWS = {"min": 1, "opt": 32, "max": 128}


@dataclass(frozen=True, slots=True)
class Provider:
    """The provider that runs the models, and how it was chosen.

    Attributes:
        name: ONNX Runtime's name of it.
        requested: The setting.
        fallback_reason: Why it is the CPU although "auto" would have taken a GPU; empty where the setting was met.
        chain: What sessions are created with: the provider, its options, and what runs the rest of a graph.
        devices: CUDA device numbers, each of which runs a copy of every model; the chain's options are for the first.
    """

    name: str
    requested: Requested
    fallback_reason: str
    chain: Chain
    devices: tuple[int, ...] = (0,)

    @property
    def on_gpu(self) -> bool:
        """Whether networks run on a GPU, so that images are decoded in front of it."""
        return self.name != CPU

    def chain_on(
        self, device: int, *more: Mapping[str, ProviderOptions]
    ) -> list[tuple[str, ProviderOptions]]:
        """The chain for a session on one of the devices.

        Args:
            device: Which.
            more: Options of this session by the provider's name; later ones win.
        """
        chain = []
        for name, options in self.chain:
            of_session = {key: value for each in more for key, value in each.get(name, {}).items()}
            on_device = {} if name == CPU else {"device_id": str(device)}
            chain.append((name, {**options, **on_device, **of_session}))
        return chain


def cuda_options(device: int, memory_limit_bytes: int, *, tf32: bool = False) -> ProviderOptions:
    """Options of the CUDA provider.

    The arena takes what a run asks for (kSameAsRequested) instead of doubling, since doubling is what makes servers'
    device memory grow without need. Convolution algorithms are taken by cuDNN's rule of thumb: every batch size is
    a new shape, and trying them out takes seconds for each.

    Args:
        device: CUDA device number.
        memory_limit_bytes: Most bytes of one session's arena, 0 for no limit.
        tf32: Whether what is computed in 32 bits may be multiplied with 10 bits of mantissa. A bundle's certificate of
            parity says nothing of that.
    """
    options = {
        "device_id": str(device),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        "use_tf32": "1" if tf32 else "0",
    }
    if memory_limit_bytes:
        options["gpu_mem_limit"] = str(memory_limit_bytes)
    return options


def tensorrt_options(device: int, memory_limit_bytes: int, cache_folder: Path) -> ProviderOptions:
    """Options of the TensorRT provider: engines and kernel timings are kept between starts.

    Args:
        device: CUDA device number.
        memory_limit_bytes: Most bytes of workspace, 0 for TensorRT's own default.
        cache_folder: Where engines and timings are kept.
    """
    options = {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",
        _CACHE_PATH: str(cache_folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder),
    }
    if memory_limit_bytes:
        options["trt_max_workspace_size"] = str(memory_limit_bytes)
    return options


def half_options() -> dict[str, ProviderOptions]:
    """What networks that compute in 16 bits want besides, by the provider's name.

    Where TF32 is off, ONNX Runtime's source keeps cuDNN from tensor cores in 16 bits as well as in 32
    (`Conv::CreateCudnnFeExecutionPlan` in core/providers/cuda/nn/conv.cc), though TF32 has the mantissa that 16 bits
    have. Channels come last, as tensor cores want them: 18 % more images a second, see benchmarks/results/cuda.md.
    """
    return {CUDA: {"use_tf32": "1", "prefer_nhwc": "1"}, TENSORRT: {"trt_fp16_enable": "1"}}


def tensorrt_ranges(row_shapes: Mapping[str, Sequence[int]]) -> dict[str, ProviderOptions]:
    """Tells TensorRT which batches will come, since it takes minutes to build an engine anew for each larger one.

    Args:
        row_shapes: One row of each input that has a row for each image, by its name.
    """
    ranges = {}
    for end, rows in _TENSORRT_ROWS.items():
        shapes = ("x".join(map(str, (rows, *shape))) for shape in row_shapes.values())
        ranges[f"trt_profile_{end}_shapes"] = ",".join(map(":".join, zip(row_shapes, shapes, strict=True)))
    return {TENSORRT: ranges}


def _runs_here(name: str, options: ProviderOptions) -> str:
    """Creates a session of one node on a provider; returns why it cannot run it, or an empty string."""
    if reason := _why_no_folder(options):
        return reason
    with _quiet():
        # Finds CUDA and cuDNN where pip installed them.
        ort.preload_dlls()
        try:
            session = ort.InferenceSession(IDENTITY_MODEL, providers=[(name, options)], enable_fallback=False)
            if session.get_providers()[0] == name:
                return ""
        except Exception as error:
            # ONNX Runtime raises classes of its own that share no base but Exception; a provider that does not work
            # is an answer here, not a fault.
            _log.debug("provider_probe_failed", provider=name, error=str(error))
    return "the driver, or a library that ONNX Runtime needs for it, is missing or too old"


def _why_no_folder(options: ProviderOptions) -> str:
    """Makes the folder of TensorRT's engines, of which TensorRT itself would make one level only.

    Returns:
        Why it cannot be made or written to, or an empty string; so too where the provider keeps nothing.
    """
    path = options.get(_CACHE_PATH)
    if path is None:
        return ""
    why = why_unusable(Path(path))
    if not why:
        return ""
    return f"its engines cannot be kept in {path}: {why}; name another folder with --cache-folder"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ONNX Runtime from printing what it misses: the one sentence that matters is the caller's."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue():
            _log.debug("provider_probe", printed=printed.getvalue())


def choose(
    requested: Requested,
    *,
    gpu_devices: str,
    gpu_memory_limit_bytes: int,
    cache_folder: Path,
    tf32: bool = False,
    available: Sequence[str] | None = None,
    why_not: Callable[[str, ProviderOptions], str] = _runs_here,
) -> Provider:
    """Resolves the provider setting against this machine.

    Args:
        requested: The setting.
        gpu_devices: CUDA device numbers, separated by commas, or `ALL_DEVICES`.
        gpu_memory_limit_bytes: Most device bytes of one session, 0 for no limit.
        cache_folder: Where TensorRT keeps its engines.
        tf32: As for `cuda_options`.
        available: Providers that the installed ONNX Runtime was built with; asked of it where absent.
        why_not: Tries a provider; returns why it cannot run, or an empty string.

    Raises:
        StartupError: A GPU was asked for and cannot be had.
    """
    # ONNX Runtime raises what fails in earnest; on a GPU it also prints a line for each kernel that is tried in vain.
    ort.set_default_logger_severity(FATAL)
    if available is None:
        available = ort.get_available_providers()
    on_cpu: Chain = ((CPU, {}),)
    if requested == "cpu":
        return Provider(CPU, requested, "", on_cpu)

    wanted = TENSORRT if requested == "tensorrt" else CUDA
    devices = _numbers(gpu_devices)
    cuda = cuda_options(devices[0], gpu_memory_limit_bytes, tf32=tf32)
    tensorrt = tensorrt_options(devices[0], gpu_memory_limit_bytes, cache_folder / "tensorrt")
    chain: Chain = ((CUDA, cuda), *on_cpu)
    if wanted == TENSORRT:
        chain = ((TENSORRT, tensorrt), *chain)
    provider = Provider(wanted, requested, "", chain, devices)
    reason = (
        next(filter(None, (why_not(*provider.chain_on(device, {})[0]) for device in devices)), "")
        if wanted in available
        else "the installed ONNX Runtime has none; install retinue-server[gpu] instead of retinue-server[cpu]"
    )
    if not reason:
        return provider
    if requested == "auto":
        return Provider(CPU, requested, f"{CUDA}: {reason}", on_cpu)
    raise StartupError(
        f"--provider {requested} cannot run here: {reason}. Use --provider auto to fall back to the CPU."
    )


def _numbers(gpu_devices: str) -> tuple[int, ...]:
    """The devices that a setting names, each once; all are found out by what CUDA shows to this process."""
    if gpu_devices != ALL_DEVICES:
        return tuple(dict.fromkeys(int(number) for number in gpu_devices.split(",")))
    with _quiet():
        ort.preload_dlls()
    cuda = cudart.load()
    # Where there is none, trying the first tells why.
    return tuple(range(cuda.device_count() if cuda else 0)) or (0,)


def available_cores() -> int:
    """Cores this process may run on: its affinity, and the CPU quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_cpu_quota()
    return max(1, min(cores, round(quota))) if quota else cores


def _cgroup_cpu_quota() -> float | None:
    """Cores that the least cpu.max grants of the process's control group and those around it; None without a limit."""
    limits = (text.split() for text in control_group.read("cpu.max"))
    return min((int(limit[0]) / int(limit[1]) for limit in limits if limit[0] != "max"), default=None)
