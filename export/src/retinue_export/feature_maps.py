"""What the layers of a bundle's graph make of an image."""

import difflib
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from retinue_export import parity
from retinue_export.errors import ExportError
from retinue_export.inspection import weights
from retinue_export.inspection.layers import module_of
from retinue_export.inspection.shapes import for_one_image
from retinue_export.subgraph import leading_to
from retinue_server.runtime.session import explain

_INPUT = "images"
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


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The maps of features of a graph, in order; those of which an image has several, one a region, are left out.

    Raises:
        ExportError: the graph contradicts itself.
    """
    shapes = for_one_image(model)
    owned = weights.owners(model.graph, weights.constants(model))
    found: dict[str, Layer] = {}
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        from_map = any(name in found for name in node.input)
        if node.op_type not in _MAKE_MAPS and not (from_map and node.op_type in _KEEP_MAPS):
            continue
        module = module_of(owned.get(place, []))
        for tensor in node.output:
            count, *sides = shapes.get(tensor) or (None,)
            channels, rows, columns = sides if len(sides) == 3 else (None, None, None)
            if count != 1 or channels is None or rows is None or columns is None:
                continue
            name = tensor if module is None or module in taken else module
            taken.add(name)
            found[tensor] = Layer(name, tensor, node.op_type, (channels, rows, columns))
    return list(found.values())


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
        ExportError: the layer needs more than the image, or the graph fails.
    """
    part = leading_to(model, [layer.tensor])
    inputs = [value.name for value in part.graph.input]
    if inputs != [_INPUT]:
        more = ", ".join(name for name in inputs if name != _INPUT)
        raise ExportError(f"{layer.name} needs more than an image: {more}.")
    try:
        (maps,) = parity.session(part.SerializeToString()).run([layer.tensor], {_INPUT: image[np.newaxis]})
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise ExportError(f"The graph cannot be run as far as {layer.name}: {explain(error)}.") from error
    return np.asarray(maps[0], np.float32)
