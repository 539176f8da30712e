"""ONNX models without a manifest, of a few nodes each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = tuple[str, int, Sequence[Any]]

# Of the operators that are used here.
_OPSET, _IR_VERSION = 17, 9


def save(
    models: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[onnx.TensorProto] = (),
    **how: Any,
) -> Path:
    """Writes a model of version 1; returns its file."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path, **how)
    return path


def adder(models: Path) -> Path:
    """`sum` of `a` and `b`, FP32 [N,3]: a row for each of several requests."""
    value = TensorProto.FLOAT, ["N", 3]
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    return save(models, "adder", [node], [("a", *value), ("b", *value)], [("sum", *value)])


def multiplier(models: Path) -> Path:
    """`product` of `a` and `b`, FP64 []: scalars, which no batch has."""
    value = TensorProto.DOUBLE, []
    node = helper.make_node("Mul", ["a", "b"], ["product"])
    return save(models, "multiplier", [node], [("a", *value), ("b", *value)], [("product", *value)])


def echo(models: Path) -> Path:
    """`said` is `text`, BYTES [N,M]."""
    value = TensorProto.STRING, ["N", None]
    return save(
        models,
        "echo",
        [helper.make_node("Identity", ["text"], ["said"])],
        [("text", *value)],
        [("said", *value)],
    )


def centred(models: Path) -> Path:
    """`rest` is `x`, FP32 [N,2], without the mean of its rows: they share a first dimension that is no batch."""
    value = TensorProto.FLOAT, ["N", 2]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["rest"]),
    ]
    return save(models, "centred", nodes, [("x", *value)], [("rest", *value)])


def table(models: Path) -> Path:
    """`found` is what of 0, 1, ..., 4 stands at `index`, INT64 [N]."""
    values = numpy_helper.from_array(np.arange(5, dtype=np.float32), "values")
    node = helper.make_node("Gather", ["values", "index"], ["found"])
    return save(
        models,
        "table",
        [node],
        [("index", TensorProto.INT64, ["N"])],
        [("found", TensorProto.FLOAT, ["N"])],
        [values],
    )


def outside(models: Path, name: str = "outside") -> Path:
    """`y` is `x`, FP32 [N,200], times weights in a file of their own beside the graph."""
    value = TensorProto.FLOAT, ["N", 200]
    weights = numpy_helper.from_array(np.ones((200, 200), np.float32), "weights")
    return save(
        models,
        name,
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [("x", *value)],
        [("y", *value)],
        [weights],
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def relocated(path: Path, location: str) -> None:
    """Has a model look for its weights elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def counted(models: Path) -> Path:
    """`count` is how many values a tensor of the shape `sizes`, INT64 [N], has: it makes that tensor to count them."""
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["made"]),
        helper.make_node("Size", ["made"], ["count"]),
    ]
    return save(
        models, "counted", nodes, [("sizes", TensorProto.INT64, [None])], [("count", TensorProto.INT64, [])]
    )
