"""An ONNX file that somebody else made: read within bounds, checked, and its image input found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from retinue_export.adoption import external_data
from retinue_export.errors import ExportError
from retinue_export.graph import first_line
from retinue_export.inspection import model_file
from retinue_export.nodes import inner_graphs

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Whose operators ONNX Runtime has."""
_IMAGE_KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_MASK_INPUT = "pixel_mask"


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: as the graph calls it.
        kind: its element type, a TensorProto.DataType.
        shape: its dimensions, None where one is open; None where nothing is said.
    """

    name: str
    kind: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign graph that can be run.

    Attributes:
        path: the file.
        sha256: of the file, lower-case hexadecimal.
        model: all of it, with what was external data inside.
        image: its one image input: float32 or float16, NCHW or NHWC.
        channels_first: which of the two.
        masks: inputs that say which pixels are padding; there are none such, so that they are fed with ones.
        outputs: in the graph's order.
    """

    path: Path
    sha256: str
    model: ModelProto
    image: Value
    channels_first: bool
    masks: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote about the network."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @property
    def batch(self) -> int | None:
        """The batch size that is fixed in the file, or None."""
        return self._dimension(0)

    @property
    def channels(self) -> int | None:
        """1, 3, or None where the file does not say."""
        return self._dimension(1 if self.channels_first else 3)

    @property
    def height(self) -> int | None:
        """Rows of the image, or None where the file does not say."""
        return self._dimension(2 if self.channels_first else 1)

    @property
    def width(self) -> int | None:
        """Columns of the image, or None where the file does not say."""
        return self._dimension(3 if self.channels_first else 2)

    def _dimension(self, axis: int) -> int | None:
        return self.image.shape[axis] if self.image.shape is not None else None


def read(path: Path) -> Foreign:
    """Reads a foreign ONNX file.

    Raises:
        ExportError: see `model_file.read`; or it names files outside of its folder, has operators that ONNX Runtime
            does not know, or not exactly one image input.
    """
    file = model_file.read(path)
    model = file.model
    external_data.embed(model, path, model_file.MAX_BYTES - file.size_bytes)
    _check_operators(path, model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path} is not valid ONNX: {first_line(error)}.") from error
    image, masks = _inputs(path, model.graph)
    return Foreign(
        path=path,
        sha256=file.sha256,
        model=model,
        image=image,
        channels_first=_channels_first(path, image),
        masks=masks,
        outputs=tuple(map(_value, model.graph.output)),
    )


def opset(model: ModelProto) -> int:
    """The version of the default operator set that a model uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _check_operators(path: Path, model: ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for body in bodies:
        for node in nodes(body):
            if node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in own:
                raise ExportError(
                    f"{path} uses the custom operator {node.domain}:{node.op_type}, which ONNX Runtime does not have: "
                    "export the network with standard operators."
                )


def nodes(body: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Each node, and those of the graphs inside of it."""
    for node in body:
        yield node
        for inner in inner_graphs(node):
            yield from nodes(inner.node)


def _inputs(path: Path, graph: GraphProto) -> tuple[Value, tuple[Value, ...]]:
    weights = {tensor.name for tensor in graph.initializer}
    values = [_value(entry) for entry in graph.input if entry.name not in weights]
    images = [value for value in values if value.kind in _IMAGE_KINDS and len(value.shape or ()) == 4]
    masks = tuple(value for value in values if value.name == _MASK_INPUT and len(value.shape or ()) == 3)
    if len(images) != 1 or len(images) + len(masks) != len(values):
        found = ", ".join(f"`{value.name}` {_described(value)}" for value in values) or "none"
        raise ExportError(
            f"{path} must have one input, float images [N,C,H,W] or [N,H,W,C], but its inputs are: {found}."
        )
    return images[0], masks


def _channels_first(path: Path, image: Value) -> bool:
    assert image.shape is not None
    first, last = image.shape[1], image.shape[3]
    if first in (1, 3):
        return True
    if last in (1, 3):
        return False
    if first is None:
        return True
    raise ExportError(
        f"{path}: input `{image.name}` {_described(image)} has neither 1 channel (grey) nor 3 (RGB)."
    )


def _value(entry: ValueInfoProto) -> Value:
    tensor = entry.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dimension.dim_value if dimension.dim_value > 0 else None for dimension in tensor.shape.dim
        )
    return Value(entry.name, tensor.elem_type, shape)


def _described(value: Value) -> str:
    kind = TensorProto.DataType.Name(value.kind).lower() if value.kind else "no tensor"
    sizes = ",".join("?" if size is None else str(size) for size in value.shape or ())
    return f"{kind} [{sizes}]"
