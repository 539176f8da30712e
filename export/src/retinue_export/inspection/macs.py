"""How many multiply-adds the nodes of a graph take.

Counted are convolutions, matrix products and attention, which are all but a few percent of what a vision network
computes; normalisation, activations, pooling and resizing are not, as is usual. A multiply-add is two FLOPs.
"""

import math
from collections.abc import Callable, Mapping

import onnx

from retinue_export.inspection.shapes import Shape

_Shapes = Mapping[str, Shape]
_Count = Callable[[onnx.NodeProto, _Shapes], int | None]
_UNCOUNTED_WORK = frozenset({"DeformConv", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"})
_STANDARD_DOMAINS = ("", "ai.onnx")
_CHEAP_ELSEWHERE = frozenset({"QuantizeLinear", "DequantizeLinear"})


def of(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    """Multiply-adds of a node, 0 for operators that are not counted, None where a shape is unknown."""
    counted = _COUNTS.get(node.op_type) if node.domain in _STANDARD_DOMAINS else None
    return counted(node, shapes) if counted is not None else 0


def counted_operators() -> list[str]:
    """The operators whose multiply-adds are counted."""
    return sorted(_COUNTS)


def hides_work(node: onnx.NodeProto) -> bool:
    """Whether a node may compute much and is not counted."""
    if node.domain in _STANDARD_DOMAINS:
        return node.op_type in _UNCOUNTED_WORK
    return node.op_type not in _CHEAP_ELSEWHERE


def _convolution(weight: int) -> _Count:
    """Each number of the answer takes one filter: [channels of its group, kernel height, kernel width]."""

    def count(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
        filters = _shape(node.input[weight], shapes)
        return _product(_shape(node.output[0], shapes), filters and filters[1:])

    return count


def _transposed_convolution(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    """Each number of the input is spread by one filter: [channels answered by its group, height, width]."""
    filters = _shape(node.input[1], shapes)
    return _product(_shape(node.input[0], shapes), filters and filters[1:])


def _gemm(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    first = _shape(node.input[0], shapes)
    axis = 0 if _integer(node, "transA") else 1
    return _product(_shape(node.output[0], shapes), first and first[axis : axis + 1])


def _matmul(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    first = _shape(node.input[0], shapes)
    return _product(_shape(node.output[0], shapes), first and first[-1:])


def _einsum(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    """One for each combination of the indices, where two operands are multiplied; one alone is only added up."""
    equation = next((entry.s.decode() for entry in node.attribute if entry.name == "equation"), "")
    terms = [term.strip() for term in equation.partition("->")[0].split(",")]
    if len(terms) == 1:
        return 0
    if len(terms) != 2 or "." in equation:
        return None
    lengths: dict[str, int | None] = {}
    for term, name in zip(terms, node.input, strict=False):
        shape = _shape(name, shapes)
        if shape is None or len(shape) != len(term):
            return None
        lengths.update(zip(term, shape, strict=True))
    return _product(tuple(lengths.values()))


def _attention(node: onnx.NodeProto, shapes: _Shapes) -> int | None:
    """Queries by keys, and weights by values: for each query and key the width of both, in all heads.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html; [N,heads,length,width] or [N,length,heads * width].
    """
    query, key = (_shape(name, shapes) for name in node.input[:2])
    answer = _shape(node.output[0], shapes)
    if query is None or key is None or answer is None:
        return None
    both = _product(query), _product(answer)
    keys = key[-2]
    return None if keys is None or both[0] is None or both[1] is None else (both[0] + both[1]) * keys


def _shape(name: str, shapes: _Shapes) -> Shape | None:
    return shapes.get(name)


def _product(*parts: Shape | None) -> int | None:
    """The product of all lengths, None where one is unknown."""
    lengths: list[int] = []
    for part in parts:
        if part is None or None in part:
            return None
        lengths += [length for length in part if length is not None]
    return math.prod(lengths)


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), 0)


_COUNTS: Mapping[str, _Count] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matmul,
}
