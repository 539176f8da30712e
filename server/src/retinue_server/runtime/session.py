"""One network in ONNX Runtime: created, checked against its manifest, and run on batches of images."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import structlog
from retinue.v1 import manifest_pb2 as pb

from retinue_server.errors import BundleError, StartupError
from retinue_server.runtime import contract, optimised
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import Provider

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
    """

    provider: Provider
    threads: Threads
    kept: ModelCache | None = None
    pools: ThreadPools | None = None


class Session:
    """A network that takes batches of images, uint8 [N,H,W,C].

    `run` may be called from several threads at once; on a CPU each run stays on its caller's thread, so one copy of
    the weights serves as many instances as there are callers. A run that has the machine to itself can take all cores
    instead, on the same weights: they are mapped from the file of the optimised graph, which is kept in a cache.

    Attributes:
        outputs: The names of what every run gives.
        extra_outputs: The names of what a run gives that asks for it.
    """

    def __init__(self, path: Path, manifest: pb.ModelManifest, machine: Machine) -> None:
        """Loads a model.

        Args:
            path: Of model.onnx.
            manifest: What its bundle says of it.
            machine: What runs it.

        Raises:
            BundleError: ONNX Runtime cannot read it, or it is not what the manifest says.
            StartupError: The provider cannot hold it.
        """
        self._path = path
        self._manifest = manifest
        self._provider = provider = machine.provider
        self.outputs: Sequence[str] = tuple(contract.outputs(manifest))
        self.extra_outputs: Sequence[str] = tuple(contract.extra_outputs(manifest))
        self._pools = machine.pools
        self._optimised: Path | None = None
        # The second computes the extra outputs, too. It does so at every run, so there are two where there can be.
        self._session, self._with_extras = self._load(
            machine.threads.per_instance, None if provider.on_gpu else machine.kept
        )
        running = self._session.get_providers()[0]
        if running != provider.name:
            raise StartupError(
                f"{path} was to run on {provider.name}, but ONNX Runtime gave it to {running}."
            )
        contract.check(path, manifest, self._with_extras.get_inputs(), self._with_extras.get_outputs())

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
        """
        options = ort.RunOptions()
        when_stopped(partial(setattr, options, "terminate", True))
        names = [*self.outputs, *(name for name in self.extra_outputs if name in extra)]
        fed = {contract.IMAGES: images, **feeds}
        if self._provider.on_gpu:
            return dict(zip(names, self._run_bound(names, fed, options), strict=True))
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
        for name, array in self.run(images, feeds, self.extra_outputs).items():
            wanted = (len(images), *(size for size, _ in tensors[name].sizes))
            if array.shape != wanted:
                raise BundleError(
                    f"{self._path}: output '{name}' has the shape {list(array.shape)} for {len(images)} images, "
                    f"but by the manifest it is {list(wanted)}."
                )

    def shrink_memory(self, images: npt.NDArray[np.uint8], feeds: Feeds) -> None:
        """Runs once and gives back what the arena holds beyond that, after a spike such as a measurement.

        Args:
            images: uint8 [N,H,W,C], contiguous, of the least batch.
            feeds: As for `run`.
        """
        options = ort.RunOptions()
        arenas = f"gpu:{self._provider.device}" if self._provider.on_gpu else "cpu:0"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        self._session.run(self.outputs, {contract.IMAGES: images, **feeds}, options)

    def plan_lone_runs(self, *, on_all_cores: bool) -> None:
        """Gets the threads of lone runs ready, or gives them back and takes them no more."""
        if on_all_cores:
            self._on_all_cores()
        elif self._pools is not None:
            self._pools.drop(self)
            self._pools = None

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

    def _open(
        self, threads: int, graph_file: str = optimised.GRAPH_FILE, *, spinning: bool = False
    ) -> ort.InferenceSession:
        options = _session_options(threads, spinning=spinning)
        path = self._path
        if self._optimised is not None:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            path = self._optimised / graph_file
        else:
            options.add_session_config_entry(*optimised.NO_WEIGHTS_OUTSIDE)
        return ort.InferenceSession(path, options, providers=list(self._provider.chain))

    def _write_optimised(self, folder: Path) -> None:
        optimised.write(self._path, folder, _session_options(1), self.extra_outputs)

    def _run_bound(self, names: Sequence[str], fed: Feeds, options: ort.RunOptions) -> list[Array]:
        # Binding copies each input to the device once, and each output from it once.
        binding = self._session.io_binding()
        for name, array in fed.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return]


def _session_options(threads: int, *, spinning: bool = False) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if spinning:
        # Between the operators of a run only.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        # Spinning threads of one run would take the cores of the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _why_not_loaded(path: Path, explanation: str) -> str:
    if _EXTERNAL_DATA.search(explanation):
        return f"{path} keeps weights in other files, which its hash does not cover; export it with all weights inside."
    return f"{path} cannot be loaded by ONNX Runtime: {explanation}; copy or export the bundle again."


def explain(error: Exception) -> str:
    """What ONNX Runtime says of a failure, without its codes and places: one line that ends without a full stop."""
    text = _PREAMBLE.sub("", str(error)).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
