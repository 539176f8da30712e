"""What a graph does last, as far as it matters for what is put behind it."""

from onnx import GraphProto

_PASSING = frozenset(
    {
        "Identity",
        "Flatten",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Cast",
        "Transpose",
        "DequantizeLinear",
        "QuantizeLinear",
    }
)
_PROBABILITIES = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})


def is_probabilities(graph: GraphProto, output: str) -> bool:
    """Whether an output comes from a softmax or sigmoid, with nothing behind it that changes values."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type in _PROBABILITIES
