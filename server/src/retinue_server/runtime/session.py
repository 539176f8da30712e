"""One network in ONNX Runtime: created, checked against its manifest, and run on batches of images."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle.manifest import input_spec
from retinue_server.errors import BundleError, StartupError
from retinue_server.runtime import contract, cudart, device_failures, optimised, providers
from retinue_server.runtime.binding import GpuModel
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.captured import Layout
from retinue_server.runtime.options import session_options
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import CUDA, TENSORRT, Provider, ProviderOptions
from retinue_server.runtime.tensor_arena import TensorArena

_log = structlog.get_logger(__name__)

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

# What ONNX Runtime puts before what it has to say.
_PREAMBLE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"(?:Load model from .*? failed:|Non-zero status code returned while running .*? Status Message: )?"
    r"(?:/\S+:\d+ .*? was false\. )?(?:Fatal error: )?",
    re.DOTALL,
)

# What it then says of a model whose weights lie in other files.
_EXTERNAL_DATA = re.compile(r"external (data|tensors)", re.IGNORECASE)

_OPTIMISED = "optimised"

_ELEMENTS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}


@dataclass(frozen=True, slots=True)
class Threads:
    """How many batches run at once, and with how many threads each."""

    instances: int
    per_instance: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What models run on.

    Attributes:
        provider: What runs them.
        threads: How many batches run at once, and with how many threads each.
        kept: Where graphs are kept that ONNX Runtime has optimised for a CPU; None where they are not.
        pools: The threads of runs that have the machine to themselves; such are possible with `kept` only.
        cuda_graphs: Whether networks are captured as CUDA graphs where they allow it.
        tensor_arena: What networks without a manifest work in; None where that has no limit.
    """

    provider: Provider
    threads: Threads
    kept: ModelCache | None = None
    pools: ThreadPools | None = None
    cuda_graphs: Literal["auto", "off"] = "off"
    tensor_arena: TensorArena | None = None


class Session:
    """A network that takes batches of images, uint8 [N,H,W,C].

    `run` may be called from several threads at once; on a CPU each run stays on its caller's thread, so one copy of
    the weights serves as many instances as there are callers. A run that has the machine to itself can take all cores
    instead, on the same weights: they are mapped from the file of the optimised graph, which is kept in a cache.
    On GPUs batches lie in slabs, see `binding`.

    Attributes:
        outputs: The names of what every run gives.
        extra_outputs: The names of what a run gives that asks for it.
        answer_rows: Of all of these, the element type and the shape for one image, once `check_answers` has seen them.
    """

    def __init__(
        self, path: Path, manifest: pb.ModelManifest, machine: Machine, graph: Path | None = None
    ) -> None:
        """Loads a model.

        Args:
            path: Of model.onnx.
            manifest: What its bundle says of it.
            machine: What runs it.
            graph: Of a copy to read in its place, which must be there until the model is prepared.

        Raises:
            BundleError: ONNX Runtime cannot read it, or it is not what the manifest says.
            StartupError: The provider cannot hold it.
        """
        self._path = path
        self._graph = graph or path
        self._manifest = manifest
        self._provider = provider = machine.provider
        self.outputs: Sequence[str] = tuple(contract.outputs(manifest))
        self.extra_outputs: Sequence[str] = tuple(contract.extra_outputs(manifest))
        self.answer_rows: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._machine = machine
        self._pools = machine.pools
        self._optimised: Path | None = None
        self._gpu: GpuModel | None = None
        if provider.on_gpu:
            self._gpu = self._load_on_gpus()
            session = self._gpu.session
        else:
            # The second computes the extra outputs, too. It does so at every run, so there are two where there can be.
            self._session, self._with_extras = self._load(machine.threads.per_instance, machine.kept)
            session = self._with_extras
        running = session.get_providers()[0]
        if running != provider.name:
            raise StartupError(
                f"{path} was to run on {provider.name}, but ONNX Runtime gave it to {running}."
            )
        contract.check(path, manifest, session.get_inputs(), session.get_outputs())

    def run(
        self,
        images: npt.NDArray[np.uint8],
        feeds: Feeds,
        extra: Collection[str] = (),
        when_stopped: Callable[[Callable[[], None]], None] = lambda stop: None,
        *,
        alone: bool = False,
    ) -> dict[str, Array]:
        """Runs the network.

        Args:
            images: uint8 [N,H,W,C], contiguous.
            feeds: What the graph takes beside images, by name.
            extra: Those of `extra_outputs` that are wanted.
            when_stopped: Told what ends the run from another thread; then ONNX Runtime raises.
            alone: Whether to take all cores.

        Returns:
            `outputs` and what is wanted beside them, each with N rows.

        Raises:
            DeviceError: The GPU has failed for good.
            Exception: ONNX Runtime cannot run it.
        """
        options = ort.RunOptions()
        when_stopped(partial(setattr, options, "terminate", True))
        names = [*self.outputs, *(name for name in self.extra_outputs if name in extra)]
        if self._gpu is not None:
            try:
                return dict(zip(names, self._gpu.run(images, feeds, names, options), strict=True))
            except Exception as error:
                raise device_failures.known(error) from error.__cause__
        fed = {contract.IMAGES: images, **feeds}
        session = self._with_extras if extra else self._session
        if alone and not extra:
            session = self._on_all_cores() or session
        return dict(zip(names, session.run(names, fed, options), strict=True))

    def check_answers(self, images: npt.NDArray[np.uint8], feeds: Feeds) -> None:
        """Runs once and compares the shapes of what comes with the manifest, since a graph may leave them open.

        Args:
            images: uint8 [N,H,W,C], contiguous.
            feeds: As for `run`.

        Raises:
            BundleError: An output has another shape than the manifest says.
        """
        tensors = {**contract.outputs(self._manifest), **contract.extra_outputs(self._manifest)}
        answers = self.run(images, feeds, self.extra_outputs)
        self.answer_rows = {name: (array.dtype, array.shape[1:]) for name, array in answers.items()}
        for name, array in answers.items():
            wanted = (len(images), *(size for size, _ in tensors[name].sizes))
            if array.shape != wanted:
                raise BundleError(
                    f"{self._path}: output '{name}' has the shape {list(array.shape)} for {len(images)} images, "
                    f"but by the manifest it is {list(wanted)}."
                )

    @property
    def answer_bytes(self) -> int:
        """What all answers for one image take."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.answer_rows.values())

    def shrink_memory(self, images: npt.NDArray[np.uint8], feeds: Feeds) -> None:
        """Runs once and gives back what the arenas hold beyond that, after a spike such as a measurement.

        On GPUs `prepare` does so.

        Args:
            images: uint8 [N,H,W,C], contiguous, of the least batch.
            feeds: As for `run`.
        """
        if self._gpu is not None:
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        fed = {contract.IMAGES: images, **feeds}
        for session in {self._session, self._with_extras, self._on_all_cores() or self._session}:
            session.run(self.outputs, fed, options)

    def prepare(self, batch_sizes: Sequence[int], feeds: Callable[[int], Feeds]) -> tuple[int, ...]:
        """Makes a model that was measured ready to be run on GPUs; on a CPU it is.

        Args:
            batch_sizes: Ascending; those that are worth running.
            feeds: Makes what the network takes beside so many images.

        Returns:
            The sizes that may be run from now on.

        Raises:
            Exception: The network cannot run one of them.
        """
        if self._gpu is None:
            return tuple(batch_sizes)
        # A detector's suppression of overlapping boxes waits for the GPU, which nothing that is captured may do.
        captures = len(contract.inputs(self._manifest)) == 1 and self._manifest.task != pb.TASK_DETECT
        on_cuda = self._provider.name == CUDA
        return self._gpu.prepare(
            batch_sizes,
            feeds,
            self._layout(self._gpu.session),
            slabs=self._machine.threads.instances,
            capturable=captures and on_cuda and self._machine.cuda_graphs == "auto",
            one_size_a_session=on_cuda,
        )

    def _layout(self, session: ort.InferenceSession) -> Layout:
        spec = input_spec(self._manifest)
        types = {output.name: output.type for output in session.get_outputs()}
        tensors = {**contract.outputs(self._manifest), **contract.extra_outputs(self._manifest)}
        outputs = {
            name: (_ELEMENTS[types[name]], tuple(size for size, _ in tensor.sizes))
            for name, tensor in tensors.items()
        }
        return Layout((spec.height, spec.width, spec.channels), outputs)

    @property
    def new_slab(self) -> Callable[[], npt.NDArray[np.uint8]] | None:
        """Makes slabs, from the beginning of which alone a prepared model runs on GPUs; None on a CPU."""
        return None if self._gpu is None else self._gpu.new_slab

    def plan_lone_runs(self, *, on_all_cores: bool) -> None:
        """Gets the threads of lone runs ready, or gives them back and takes them no more."""
        if on_all_cores:
            self._on_all_cores()
        elif self._pools is not None:
            self._pools.drop(self)
            self._pools = None

    def close(self) -> None:
        """Gives back what it holds, once no run needs it any more; there can be no other."""
        if self._pools is not None:
            self._pools.drop(self)
            self._pools = None
        self._session = self._with_extras = self._gpu = None

    @staticmethod
    def forget_kept(manifest: pb.ModelManifest, machine: Machine) -> None:
        """Drops the optimised graph that is kept of a model.

        Args:
            manifest: What its bundle says of it.
            machine: What was to run it.
        """
        if machine.kept is not None:
            machine.kept.drop(manifest.sha256, _OPTIMISED)

    @staticmethod
    def expected_weights_bytes(path: Path, manifest: pb.ModelManifest, machine: Machine) -> int:
        """What the weights of a model will take at least, before it is loaded.

        Args:
            path: Of model.onnx.
            manifest: What its bundle says of it.
            machine: What is to run it.
        """
        kept = None if machine.provider.on_gpu else machine.kept
        folder = kept.find(manifest.sha256, _OPTIMISED) if kept is not None else None
        return _unfolded_bytes(path, manifest) if folder is None else _files_bytes(folder)

    @property
    def weights_bytes(self) -> int:
        """Of the files of its weights, as they are when they are in use."""
        if self._optimised is not None:
            return _files_bytes(self._optimised)
        copies = len(self._provider.devices) if self._provider.on_gpu else 1
        return copies * _unfolded_bytes(self._path, self._manifest)

    @property
    def can_run_alone(self) -> bool:
        """Whether `alone` makes a difference."""
        return self._optimised is not None and self._pools is not None

    def _on_all_cores(self) -> ort.InferenceSession | None:
        if self._pools is None or self._optimised is None:
            return None
        return self._pools.session(self, partial(self._open, self._pools.threads, spinning=True))

    def _load(
        self, threads: int, kept: ModelCache | None
    ) -> tuple[ort.InferenceSession, ort.InferenceSession]:
        """Opens the graph as ONNX Runtime has optimised it for this machine, or, where that cannot be, as it is."""
        why_not = ""
        if kept is not None:
            sha256 = self._manifest.sha256
            try:
                self._optimised = kept.find(sha256, _OPTIMISED) or kept.keep(
                    sha256, _OPTIMISED, self._write_optimised
                )
                session = self._open(threads)
                return session, self._open(threads, optimised.EXTRAS_FILE) if self.extra_outputs else session
            except Exception as error:
                kept.drop(sha256, _OPTIMISED)
                self._optimised = None
                why_not = explain(error)
        try:
            session = self._open(threads)
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            raise BundleError(_why_not_loaded(self._path, explain(error))) from error
        if why_not:
            _log.warning("model_not_optimised", model=self._manifest.name, reason=why_not)
        return session, session

    def _load_on_gpus(self) -> GpuModel:
        try:
            return GpuModel(self._open_on_gpu, self._provider.devices, cudart.load(), self._manifest.name)
        except Exception as error:
            raise BundleError(_why_not_loaded(self._path, explain(error))) from error

    def _open_on_gpu(self, device: int, more: Mapping[str, ProviderOptions]) -> ort.InferenceSession:
        options = session_options(self._machine.threads.per_instance)
        options.add_session_config_entry(*optimised.NO_WEIGHTS_OUTSIDE)
        half = providers.half_options() if self._manifest.precision == pb.PRECISION_FP16 else {}
        # ONNX Runtime would take the CPU where a provider fails, and say so to whoever reads its output.
        opened = partial(ort.InferenceSession, self._graph, options, enable_fallback=False)
        if self._provider.name == TENSORRT:
            inputs = contract.inputs(self._manifest).items()
            rows = {name: [size for size, _ in tensor.sizes] for name, tensor in inputs if tensor.batched}
            ranges = providers.tensorrt_ranges(rows)
            try:
                return opened(providers=self._provider.chain_on(device, half, ranges, more))
            except Exception as error:
                # TensorRT takes parts of the graph only, whose inputs are others: it finds out their ranges by itself.
                _log.info("tensorrt_ranges_refused", model=self._manifest.name, reason=explain(error))
        return opened(providers=self._provider.chain_on(device, half, more))

    def _open(
        self, threads: int, graph_file: str = optimised.GRAPH_FILE, *, spinning: bool = False
    ) -> ort.InferenceSession:
        options = session_options(threads, spinning=spinning)
        path = self._graph
        if self._optimised is not None:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            path = self._optimised / graph_file
        else:
            options.add_session_config_entry(*optimised.NO_WEIGHTS_OUTSIDE)
        return ort.InferenceSession(path, options, providers=list(self._provider.chain))

    def _write_optimised(self, folder: Path) -> None:
        optimised.write(self._graph, folder, session_options(1), self.extra_outputs)


def _files_bytes(folder: Path) -> int:
    # Where it is no folder, that is found out when it is opened.
    return sum(file.stat().st_size for file in folder.glob("*"))


def _unfolded_bytes(path: Path, manifest: pb.ModelManifest) -> int:
    """What a bundle's weights take in use: those that are stored in 16 bits are unfolded to 32."""
    return path.stat().st_size * (2 if manifest.precision == pb.PRECISION_FP16_WEIGHTS else 1)


def _why_not_loaded(path: Path, explanation: str) -> str:
    if _EXTERNAL_DATA.search(explanation):
        return f"{path} keeps weights in other files, which its hash does not cover; export it with all weights inside."
    return f"{path} cannot be loaded by ONNX Runtime: {explanation}; copy or export the bundle again."


def explain(error: Exception) -> str:
    """What ONNX Runtime says of a failure, without its codes and places: one line that ends without a full stop."""
    text = _PREAMBLE.sub("", str(error)).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
