"""Graphs whose layers compute in 16-bit floating point."""

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from retinue_export import graph, trunk
from retinue_export.errors import ExportError


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Brings the weights and the arithmetic between a graph's layers to 16 bits.

    What lies outside of them, and operators that have no 16-bit form, stay in 32 bits. So do inputs and outputs.

    Args:
        model: in 32 bits; stays as it is.

    Raises:
        ExportError: the graph has no layers, has weights too large for 16 bits, or cannot be converted.
    """
    if not trunk.layers(model):
        raise ExportError("The network has no layer with weights (Conv, Gemm or MatMul) to compute in FP16.")
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            copy.deepcopy(model),
            keep_io_types=True,
            op_block_list=DEFAULT_OP_BLOCK_LIST,
            node_block_list=sorted(trunk.outside(model)),
        )
        _remove_twins(converted.graph)
        _remove_round_trips(converted.graph)
        ONNXModel(converted).topological_sort()
        graph.strip(converted)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the converter has no errors of its own
        raise ExportError(
            f"The network cannot be converted to FP16: {graph.first_line(error)}. Export it with --precision fp32."
        ) from error
    _check_range(model.graph, converted.graph)
    return converted


def _check_range(before: onnx.GraphProto, converted: onnx.GraphProto) -> None:
    """Refuses weights that the converter has silently brought down to the largest 16-bit float."""
    halved = {tensor.name for tensor in converted.initializer if tensor.data_type == TensorProto.FLOAT16}
    for tensor in before.initializer:
        if tensor.name in halved and tensor.data_type == TensorProto.FLOAT:
            graph.require_fp16_range(tensor.name, numpy_helper.to_array(tensor))


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes a graph in 32 bits that rounds where one in 16 bits does: each operator's result, and each weight.

    A runtime without 16-bit arithmetic, such as ONNX Runtime on most CPUs, computes in 32 bits throughout instead, and
    so shows neither what rounding changes nor what is too large for 16 bits.

    Args:
        model: what `to_fp16` gives; stays as it is.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    halves = {
        value.name
        for value in (*typed.graph.value_info, *typed.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    wide = copy.deepcopy(model)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    nodes = []
    for node in wide.graph.node:
        for attribute in node.attribute:
            _widen(attribute.t)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in halves:
                exact, half = f"{name}.exact", f"{name}.half"
                node.output[place] = exact
                nodes += [_cast(exact, half, TensorProto.FLOAT16), _cast(half, name, TensorProto.FLOAT)]
    del wide.graph.value_info[:]
    rounding = [copy.deepcopy(node) for node in nodes]
    del wide.graph.node[:]
    wide.graph.node.extend(rounding)
    return wide


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)


def _remove_twins(converted: onnx.GraphProto) -> None:
    """Keeps one of the casts that the converter puts before each node in 32 bits that takes the same value."""
    made: set[str] = set()
    for node in list(converted.node):
        if node.op_type == "Cast" and node.output[0] in made:
            converted.node.remove(node)
        made.update(node.output)


def _remove_round_trips(converted: onnx.GraphProto) -> None:
    """Lets values that go from one node in 32 bits to the next skip the 16 bits that the converter puts between."""
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*converted.value_info, *converted.input)
    }
    narrowed = {
        node.output[0]: node.input[0]
        for node in converted.node
        if _casts_to(node, TensorProto.FLOAT16) and types.get(node.input[0]) == TensorProto.FLOAT
    }
    results = {output.name for output in converted.output}
    renamed: dict[str, str] = {}
    for node in list(converted.node):
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed:
            source, target = narrowed[node.input[0]], node.output[0]
            renamed.update({source: target} if target in results else {target: source})
            converted.node.remove(node)
    for node in converted.node:
        node.input[:] = [_final(name, renamed) for name in node.input]
        node.output[:] = [_final(name, renamed) for name in node.output]
    used = {name for node in converted.node for name in node.input}
    for node in list(converted.node):
        if _casts_to(node, TensorProto.FLOAT16) and used.isdisjoint(node.output):
            converted.node.remove(node)


def _final(name: str, renamed: dict[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == kind for one in node.attribute)
