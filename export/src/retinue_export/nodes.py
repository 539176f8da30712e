"""Nodes of a graph that exists already: read, and written into it one by one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Adds nodes with names of their own to a graph.

    Args:
        graph: changed in place.
        prefix: what the name of everything begins with that gets no other name.
    """

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self._graph = graph
        self._prefix = prefix
        self._count = 0

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds an initialiser, and returns its name."""
        full_name = f"{self._prefix}.{name}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), full_name))
        return full_name

    def input(self, name: str, shape: list[int | str]) -> str:
        """Adds an input, float32 of this shape, and returns its name."""
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def add(self, operator: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """Adds a node of one output, and returns the output's name: `result` where it is given."""
        return self.add_many(
            operator, 1, *inputs, results=None if result is None else [result], **attributes
        )[0]

    def add_many(
        self, operator: str, count: int, *inputs: str, results: list[str] | None = None, **attributes: Any
    ) -> list[str]:
        """Likewise, a node of `count` outputs."""
        self._count += 1
        name = f"{self._prefix}.{operator}_{self._count}"
        outputs = results or [f"{name}.{number}" for number in range(count)]
        self._graph.node.append(helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        return outputs


def constant_of(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor that a Constant node holds; None for other nodes, and for constants written as plain numbers."""
    if node.op_type != "Constant":
        return None
    return next((entry.t for entry in node.attribute if entry.name == "value"), None)


def constants(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """The tensors that a graph holds, each by its value's name: initialisers, and what Constant nodes hold."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        value = constant_of(node)
        if value is not None:
            yield node.output[0], value


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def values_used(node: onnx.NodeProto) -> Iterator[str]:
    """The names of what a node takes, and of what the nodes inside it take."""
    yield from node.input
    for graph in inner_graphs(node):
        for inner in graph.node:
            yield from values_used(inner)
        yield from (value.name for value in graph.output)


def output_shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The shape of each output by its name; dimensions that are not fixed, such as the batch, are 0."""
    return {
        output.name: [dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in graph.output
    }
