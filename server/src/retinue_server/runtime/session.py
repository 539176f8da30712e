"""One network in ONNX Runtime: created, checked against its manifest, and run on batches of images."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle.manifest import input_spec
from retinue_server.errors import BundleError, StartupError
from retinue_server.runtime.providers import Provider

Array = npt.NDArray[Any]

INPUT = "images"

# What ONNX Runtime puts before what it has to say.
_PREAMBLE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"(?:Load model from .*? failed:|Non-zero status code returned while running .*? Status Message: )?"
    r"(?:/\S+:\d+ .*? was false\. )?",
    re.DOTALL,
)

# What it then says of a model whose weights lie in other files.
_EXTERNAL_DATA = re.compile(r"external (data|tensors)", re.IGNORECASE)

# ONNX Runtime's names of element types, as the contract of each output allows them, and how many dimensions it has.
_OUTPUTS: Mapping[int, Mapping[str, tuple[frozenset[str], int]]] = {
    pb.TASK_CLASSIFY: {"probabilities": (frozenset({"tensor(float)"}), 2)},
    pb.TASK_DETECT: {
        "boxes": (frozenset({"tensor(float)"}), 3),
        "scores": (frozenset({"tensor(float)"}), 2),
        "classes": (frozenset({"tensor(int32)"}), 2),
    },
    pb.TASK_SEGMENT: {"class_map": (frozenset({"tensor(uint8)", "tensor(int32)"}), 3)},
}


@dataclass(frozen=True, slots=True)
class Threads:
    """How many batches run at once, and with how many threads each."""

    instances: int
    per_instance: int


class Session:
    """A network that takes batches of images, uint8 [N,H,W,C].

    `run` may be called from several threads at once; on a CPU each run stays on its caller's thread, so one copy of
    the weights serves as many instances as there are callers.

    Attributes:
        outputs: The names of the outputs that `run` returns, in order.
    """

    def __init__(self, path: Path, manifest: pb.ModelManifest, provider: Provider, threads: Threads) -> None:
        """Loads a model.

        Raises:
            BundleError: ONNX Runtime cannot read it, or it is not what the manifest says.
            StartupError: The provider cannot hold it.
        """
        self._path = path
        self._manifest = manifest
        self._provider = provider
        self.outputs: Sequence[str] = tuple(_OUTPUTS[manifest.task])
        try:
            self._session = ort.InferenceSession(
                path, _session_options(threads), providers=list(provider.chain)
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            raise BundleError(_why_not_loaded(path, explain(error))) from error
        running = self._session.get_providers()[0]
        if running != provider.name:
            raise StartupError(
                f"{path} was to run on {provider.name}, but ONNX Runtime gave it to {running}."
            )
        self._check_input(path, manifest)
        self._check_outputs(path, manifest)

    def run(self, images: npt.NDArray[np.uint8]) -> list[Array]:
        """Runs the network.

        Args:
            images: uint8 [N,H,W,C], contiguous.

        Returns:
            The arrays of `outputs`, each with N rows.
        """
        if self._provider.on_gpu:
            return self._run_bound(images)
        return self._session.run(self.outputs, {INPUT: images})  # type: ignore[no-any-return]

    def check_answers(self, images: npt.NDArray[np.uint8]) -> None:
        """Runs once and compares the shapes of what comes with the manifest, since a graph may leave them open.

        Args:
            images: uint8 [N,H,W,C], contiguous.

        Raises:
            BundleError: An output has another shape than the manifest says.
        """
        for name, array in zip(self.outputs, self.run(images), strict=True):
            wanted = (len(images), *(size for size, _ in _sizes(name, self._manifest)))
            if array.shape != wanted:
                raise BundleError(
                    f"{self._path}: output '{name}' has the shape {list(array.shape)} for {len(images)} images, "
                    f"but by the manifest it is {list(wanted)}."
                )

    def shrink_memory(self, images: npt.NDArray[np.uint8]) -> None:
        """Runs once and gives back what the arena holds beyond that, after a spike such as a measurement.

        Args:
            images: uint8 [N,H,W,C], contiguous, of the least batch.
        """
        options = ort.RunOptions()
        arenas = f"gpu:{self._provider.device}" if self._provider.on_gpu else "cpu:0"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        self._session.run(self.outputs, {INPUT: images}, options)

    def _run_bound(self, images: npt.NDArray[np.uint8]) -> list[Array]:
        # Binding copies the input to the device once, and each output from it once.
        binding = self._session.io_binding()
        binding.bind_cpu_input(INPUT, images)
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return]

    def _check_input(self, path: Path, manifest: pb.ModelManifest) -> None:
        spec = input_spec(manifest)
        inputs = self._session.get_inputs()
        wanted = [spec.height, spec.width, spec.channels]
        if len(inputs) != 1 or inputs[0].name != INPUT:
            names = ", ".join(repr(value.name) for value in inputs)
            raise BundleError(
                f"{path}: the graph's inputs are {names}, but the contract wants one, '{INPUT}'."
            )
        shape, kind = inputs[0].shape, inputs[0].type
        if kind != "tensor(uint8)" or len(shape) != 4 or shape[1:] != wanted:
            raise BundleError(
                f"{path}: input '{INPUT}' is {kind} {shape}, but field `input` of the manifest wants "
                f"tensor(uint8) [N, {', '.join(map(str, wanted))}]."
            )
        if isinstance(shape[0], int):
            raise BundleError(
                f"{path}: input '{INPUT}' has the fixed batch size {shape[0]}; it must be dynamic."
            )

    def _check_outputs(self, path: Path, manifest: pb.ModelManifest) -> None:
        actual = {value.name: value for value in self._session.get_outputs()}
        for name, (kinds, dimensions) in _OUTPUTS[manifest.task].items():
            if name not in actual:
                raise BundleError(f"{path}: output '{name}' is missing; the graph has {', '.join(actual)}.")
            value = actual[name]
            if value.type not in kinds or len(value.shape) != dimensions:
                raise BundleError(
                    f"{path}: output '{name}' is {value.type} {value.shape}, but the contract wants "
                    f"{' or '.join(sorted(kinds))} with {dimensions} dimensions."
                )
            for axis, (size, field) in enumerate(_sizes(name, manifest), start=1):
                found = value.shape[axis]
                if isinstance(found, int) and found != size:
                    raise BundleError(
                        f"{path}: output '{name}' has {found} in dimension {axis}, but field `{field}` says {size}."
                    )


def _sizes(output: str, manifest: pb.ModelManifest) -> list[tuple[int, str]]:
    """The dimensions of an output for one image, each with the manifest's field that says so."""
    rows = (manifest.detect.max_detections, "detect.max_detections")
    return {
        "probabilities": [(len(manifest.labels), "labels")],
        "boxes": [rows, (4, "task")],
        "scores": [rows],
        "classes": [rows],
        "class_map": [
            (manifest.segment.map_height, "segment.map_height"),
            (manifest.segment.map_width, "segment.map_width"),
        ],
    }[output]


def _session_options(threads: Threads) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.per_instance
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads of one run would take the cores of the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Where weights outside of the model are looked for: nowhere, since the bundle's hash does not cover them. Else a
    # model could name any file of this machine.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
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
