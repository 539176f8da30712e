"""All that can be said of a bundle, or of an ONNX file, without running it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, inliner
from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError
from retinue_export.graph import first_line
from retinue_export.inspection import layers, macs, model_file, weights
from retinue_export.inspection.layers import Layer
from retinue_export.subgraph import leading_to
from retinue_server.bundle import manifest as manifest_file

_EXTRA_OUTPUTS = frozenset({"heatmap", "masks"})
"""What bundles compute only when asked."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: as the graph calls it.
        number_format: as "uint8".
        shape: a length, or the symbol of one that is free, for each dimension; None where the graph states none.
    """

    name: str
    number_format: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in a graph.

    Attributes:
        file: the ONNX file.
        file_bytes: its size.
        sha256: its hash; where there is a manifest, the same is written there.
        manifest: None for an ONNX file that is not in a bundle.
        ir_version: the version of ONNX's file format.
        opsets: version by domain.
        producer: what wrote the file, as it says itself.
        inputs: without constants.
        outputs: all.
        operators: how many nodes there are, by operator, most first.
        constants: see `weights.constants`.
        layers: see `layers.read`; of a bundle those that run for every request.
        uncounted: operators that may compute much and are in no figure, or whose shapes are unknown.
        external_files: where constants lie outside of the file.
    """

    file: Path
    file_bytes: int
    sha256: str
    manifest: pb.ModelManifest | None
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: list[Port]
    outputs: list[Port]
    operators: dict[str, int]
    constants: list[weights.Constant]
    layers: list[Layer]
    uncounted: list[str]
    external_files: list[str]

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned."""
        return sum(constant.count for constant in self.constants if constant.is_parameter)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image, without those of `uncounted`."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def stored_bytes(self) -> dict[str, int]:
        """What constants take, by number format, most first."""
        total: Counter[str] = Counter()
        for constant in self.constants:
            total[constant.number_format] += constant.stored_bytes
        return dict(total.most_common())


def read(target: Path) -> Facts:
    """Reads a bundle or an ONNX file.

    Args:
        target: a version folder, whose manifest and hash are checked, or a file.

    Raises:
        ExportError: the file is not a graph that can be understood.
        BundleError: the bundle does not hold what it promises.
    """
    manifest = None
    path = target
    if target.is_dir():
        manifest = manifest_file.read(target)
        manifest_file.check_hash(target, manifest)
        path = target / manifest_file.MODEL_FILE
    file = model_file.read(path)
    model = _inlined(path, file.model)
    known = weights.constants(model)
    always = model
    if manifest is not None:
        always = leading_to(model, [one.name for one in model.graph.output if one.name not in _EXTRA_OUTPUTS])
    found = layers.read(always, known)
    return Facts(
        file=path,
        file_bytes=file.size_bytes,
        sha256=file.sha256,
        manifest=manifest,
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=[_port(value) for value in model.graph.input if value.name not in known],
        outputs=[_port(value) for value in model.graph.output],
        operators=dict(Counter(_operator(node) for node in model.graph.node).most_common()),
        constants=list(known.values()),
        layers=found,
        uncounted=sorted(
            {_operator(node) for node in model.graph.node if macs.hides_work(node)}
            | {f"{layer.operator} of unknown shape" for layer in found if layer.macs is None}
        ),
        external_files=sorted(_external_files(model.graph)),
    )


def read_model(path: Path) -> onnx.ModelProto:
    """Reads a graph, its own functions put in place of their calls; numbers outside of the file are left there.

    Raises:
        ExportError: the file is not a graph that can be understood.
    """
    return _inlined(path, model_file.read(path).model)


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{path} defines functions that cannot be put in place: {first_line(error)}."
            ) from error
    return model


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    number_format = weights.format_name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Port(value.name, number_format, None)
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim
    )
    return Port(value.name, number_format, shape)


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _external_files(graph: onnx.GraphProto) -> set[str]:
    return {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
