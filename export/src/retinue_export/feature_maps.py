"""What the layers of a bundle's graph make of an image."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from retinue_export import parity
from retinue_export.errors import ExportError

_INPUT = "images"
_NETWORK = "network."
"""What export puts before a module's own names."""
_LARGE = 1024
"""Constants of more values are weights, of which only the shape matters to shapes."""
_MAKE_MAPS = frozenset(
    {
        *(
            "Conv",
            "ConvTranspose",
            "QLinearConv",
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
        ),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "Resize", "MaxUnpool"),
        *("DepthToSpace", "SpaceToDepth", "RoiAlign", "MaxRoiPool"),
    }
)
"""Operators that take and give [N,C,H,W] by their definition."""
_KEEP_MAPS = frozenset(
    {
        *("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Softplus", "Mish"),
        *("HardSwish", "HardSigmoid", "Gelu", "Swish", "Erf", "Exp", "Sqrt", "Pow", "Neg", "Abs"),
        *("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Where", "Concat", "Split", "Slice", "Pad"),
        *("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"),
    }
)
"""Operators that leave the order of the dimensions as it is."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor of a graph that is a map of features for each image.

    Attributes:
        name: of the module whose weight makes it, as "features.18.0"; else the tensor's.
        tensor: its name in the graph.
        operator: what makes it, as "Conv".
        shape: channels, rows and columns.
    """

    name: str
    tensor: str
    operator: str
    shape: tuple[int, int, int]


def read(path: Path) -> onnx.ModelProto:
    """Reads a graph.

    Raises:
        ExportError: it is none.
    """
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's DecodeError, or whatever onnx meets in a damaged file
        raise ExportError(f"{path} is no ONNX graph: copy or export the bundle again.") from error


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The maps of features of a graph, in order."""
    shapes = _shapes(model)
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {
        node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in known
    }
    found: dict[str, Layer] = {}
    taken: set[str] = set()
    for node in model.graph.node:
        is_map = node.op_type in _MAKE_MAPS or (
            node.op_type in _KEEP_MAPS and any(name in found for name in node.input)
        )
        for tensor in node.output if is_map else ():
            if (shape := shapes.get(tensor)) is not None:
                name = _module_of(node, known)
                if name is None or name in taken:
                    name = tensor
                taken.add(name)
                found[tensor] = Layer(name, tensor, node.op_type, shape)
    return list(found.values())


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, int, int]]:
    """Channels, rows and columns of the tensors [N,C,H,W] of a graph, inferred on a copy without weights."""
    small = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    small.graph.CopyFrom(
        onnx.GraphProto(
            name=model.graph.name, node=model.graph.node, input=model.graph.input, output=model.graph.output
        )
    )
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) > _LARGE:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            small.graph.input.append(value)
        else:
            small.graph.initializer.append(tensor)
    inferred = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    shapes = {}
    for value in (*inferred.value_info, *inferred.output):
        sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(sides) == 4 and min(sides[1:]) > 0:
            shapes[value.name] = (sides[1], sides[2], sides[3])
    return shapes


def _module_of(node: onnx.NodeProto, known: set[str]) -> str | None:
    """The module whose weight a node has."""
    weights = [name for name in node.input[1:2] if name in known and name.endswith(".weight")]
    return weights[0].removeprefix(_NETWORK).removesuffix(".weight") if weights else None


def find(model: onnx.ModelProto, wanted: str) -> Layer:
    """The layer of a name, or of a tensor's name.

    Raises:
        ExportError: there is none, or the tensor is no map of features.
    """
    known = layers(model)
    for layer in known:
        if wanted in (layer.name, layer.tensor):
            return layer
    if any(wanted in node.output for node in model.graph.node):
        raise ExportError(
            f"The tensor {wanted!r} is no map of features [N,C,H,W]: choose one that --list shows."
        )
    names = list(dict.fromkeys(name for layer in known for name in (layer.name, layer.tensor)))
    close = difflib.get_close_matches(wanted, names, n=3)
    meant = f"did you mean {' or '.join(map(repr, close))}?" if close else "--list shows what there is."
    raise ExportError(f"The graph has no layer {wanted!r}: {meant}")


def compute(model: onnx.ModelProto, layer: Layer, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Runs a graph as far as a layer.

    Args:
        model: the graph.
        layer: one of `layers`.
        image: uint8 [H,W,C], as the server prepares it.

    Returns:
        float32 [C,h,w].

    Raises:
        ExportError: the layer needs more than the image.
    """
    part = _up_to(model, layer.tensor)
    inputs = [value.name for value in part.graph.input]
    if inputs != [_INPUT]:
        more = ", ".join(name for name in inputs if name != _INPUT)
        raise ExportError(f"{layer.name} needs more than an image: {more}.")
    (maps,) = parity.session(part.SerializeToString()).run([layer.tensor], {_INPUT: image[np.newaxis]})
    if len(maps) != 1:
        raise ExportError(
            f"{layer.name} has {len(maps)} maps for one image, not one: choose an earlier layer."
        )
    return np.asarray(maps[0], np.float32)


def _up_to(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """What of a graph is needed for a tensor, which becomes the only output: layers before the largest need little."""
    needed, nodes = {tensor}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.input.extend(value for value in model.graph.input if value.name in needed)
    part.graph.initializer.extend(value for value in model.graph.initializer if value.name in needed)
    part.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return part
