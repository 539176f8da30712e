"""Which part of a graph can compute in fewer bits: its layers with weights and what lies between them.

What comes before the first layer (bringing pixels to what the network takes) and behind the last ones (softmax, box
decoding, suppression) costs little time and loses most by rounding.
"""

from collections.abc import Iterator

import onnx

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CHOOSING: dict[str, tuple[int, ...]] = {
    "NonMaxSuppression": (0, 1),
    "TopK": (0,),
    "RoiAlign": (1, 2),
    "MaxRoiPool": (1,),
}
"""Operators that choose places in the middle of a network, and the inputs they choose by."""


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that multiply by stored weights."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [
        node for node in model.graph.node if node.op_type in _LAYERS and not stored.isdisjoint(node.input[:2])
    ]


def outside(model: onnx.ModelProto) -> set[str]:
    """The names of the nodes that no layer comes before, or of whose results no layer makes anything.

    What a detector chooses its regions by counts as a result, even where layers go on from them.

    Args:
        model: every node has a name of its own; nodes are sorted.
    """
    inner = {node.name for node in layers(model)}
    return set(_before(model.graph, inner)) | set(_behind(model.graph, inner))


def _before(graph: onnx.GraphProto, layers: set[str]) -> Iterator[str]:
    made_by_layers: set[str] = set()
    for node in graph.node:
        if node.name in layers or not made_by_layers.isdisjoint(node.input):
            made_by_layers.update(node.output)
        else:
            yield node.name


def _behind(graph: onnx.GraphProto, layers: set[str]) -> Iterator[str]:
    wanted_by_layers: set[str] = set()
    for node in reversed(graph.node):
        if node.name in layers or not wanted_by_layers.isdisjoint(node.output):
            choosing = _CHOOSING.get(node.op_type, ())
            wanted_by_layers.update(name for place, name in enumerate(node.input) if place not in choosing)
        else:
            yield node.name
