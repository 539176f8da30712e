"""The constants of a graph: which are the network's parameters, how they are stored, and which nodes they belong to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from retinue_export import nodes

_BITS_BELOW_A_BYTE: Mapping[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
# Places where a number is no parameter but a setting, by operator and position among its inputs.
_SETTINGS: Mapping[str, frozenset[int]] = {
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "QLinearConv": frozenset({1, 2, 4, 5, 6, 7}),
    "QLinearMatMul": frozenset({1, 2, 4, 5, 6, 7}),
    "ConvInteger": frozenset({2, 3}),
    "MatMulInteger": frozenset({2, 3}),
    "Clip": frozenset({1, 2}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
    "Pad": frozenset({2}),
    "Resize": frozenset({1, 2}),
}
_INDICES = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING})


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers that a graph holds.

    Attributes:
        name: of the value.
        number_format: as "float16".
        count: of the numbers.
        stored_bytes: what they take, each in its format.
        is_parameter: whether the network has learned it, as far as that can be seen: of floating point or quantised, of
            one dimension or more, and neither a threshold, a scale nor the like. Tables such as anchors count too.
    """

    name: str
    number_format: str
    count: int
    stored_bytes: int
    is_parameter: bool


def constants(model: onnx.ModelProto) -> dict[str, Constant]:
    """All constants of a graph by name: its initialisers, and what its Constant nodes hold."""
    used = _uses(model.graph)
    return {
        name: Constant(
            name,
            format_name(tensor.data_type),
            math.prod(tensor.dims),
            _stored_bytes(tensor),
            _is_parameter(tensor, used.get(name, [])),
        )
        for name, tensor in nodes.constants(model.graph)
    }


def owners(graph: onnx.GraphProto, known: Mapping[str, Constant]) -> dict[int, list[Constant]]:
    """Which constants each node is the first to use.

    What is computed of constants alone, such as 32-bit weights cast from stored 16-bit ones, counts as constant.

    Args:
        graph: its nodes in an order in which they can run.
        known: from `constants`.

    Returns:
        By the node's place in the graph; nodes that use none, or are constant themselves, are left out.
    """
    behind: dict[str, list[Constant]] = {name: [constant] for name, constant in known.items()}
    owned: dict[int, list[Constant]] = {}
    taken: set[str] = set()
    for place, node in enumerate(graph.node):
        given = [name for name in node.input if name]
        found = [constant for name in given for constant in behind.get(name, [])]
        if given and all(name in behind for name in given):
            behind.update({name: found for name in node.output})
            continue
        mine = {constant.name: constant for constant in found if constant.name not in taken}
        if mine:
            owned[place] = list(mine.values())
            taken.update(mine)
    return owned


def format_name(data_type: int) -> str:
    """The name of one of ONNX's tensor types, as "float16"."""
    if data_type not in TensorProto.DataType.values() or data_type == TensorProto.UNDEFINED:
        return "unknown"
    if data_type == TensorProto.STRING:
        return "string"
    return str(helper.tensor_dtype_to_np_dtype(data_type).name)


def _uses(graph: onnx.GraphProto) -> dict[str, list[tuple[str, int]]]:
    """Operator and position of each use of a value."""
    uses: dict[str, list[tuple[str, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses.setdefault(name, []).append((node.op_type, position))
    return uses


def _is_parameter(tensor: TensorProto, uses: list[tuple[str, int]]) -> bool:
    if not tensor.dims:
        return False
    if tensor.data_type in _INDICES:
        return ("DequantizeLinear", 0) in uses
    return not uses or any(position not in _SETTINGS.get(operator, ()) for operator, position in uses)


def _stored_bytes(tensor: TensorProto) -> int:
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    bits = _BITS_BELOW_A_BYTE.get(tensor.data_type)
    if bits is None:
        known = format_name(tensor.data_type) != "unknown"
        bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) if known else 0
    return math.ceil(math.prod(tensor.dims) * bits / 8)
