"""Makes a graph that was exported for one batch size take any, where it can be seen how.

What is changed here is a proposal: `adopted` compares the result with the file itself, image by image, at several
sizes.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from retinue_export import nodes
from retinue_export.adoption.reading import Foreign
from retinue_server.vision.spec import InputSpec

BATCH = "batch"


def release(model: ModelProto, foreign: Foreign, spec: InputSpec) -> None:
    """Gives the inputs a batch of any size, and removes the fixed size from shapes that the graph has as constants.

    A Reshape to a constant shape that begins with the fixed size keeps the batch of its input instead, and so does the
    Resize to such a size, if shape inference finds the batch of the images in the first dimension of what they work on.

    Args:
        model: changed in place; its inputs have the names of `foreign`.
        foreign: what it comes from.
        spec: how images are prepared.
    """
    graph = model.graph
    sides = [spec.height, spec.width]
    shape = [spec.channels, *sides] if foreign.channels_first else [*sides, spec.channels]
    by_name = {value.name: value for value in graph.input}
    _set_shape(by_name[foreign.image.name], [BATCH, *shape])
    for mask in foreign.masks:
        assert mask.shape is not None
        _set_shape(
            by_name[mask.name],
            [BATCH, *(size or side for size, side in zip(mask.shape[1:], sides, strict=True))],
        )
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    if foreign.batch is None:
        return
    while found := _fixed(model, foreign.batch):
        for node in found:
            _release_node(graph, node)


def _set_shape(value: onnx.ValueInfoProto, shape: list[int | str]) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))


def _fixed(model: ModelProto, batch: int) -> list[NodeProto]:
    """Nodes that work on the whole batch, and give it the fixed size."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    first = {
        value.name: value.type.tensor_type.shape.dim[0].dim_param
        for value in (*inferred.graph.value_info, *inferred.graph.input)
        if value.type.tensor_type.shape.dim
    }
    constants = _constants(model.graph)
    found = []
    for node in model.graph.node:
        shape = constants.get(_shape_input(node), np.empty(0, np.int64))
        begins = shape.size > 0 and int(shape[0]) == batch
        if begins and first.get(node.input[0]) == BATCH and not (_allows_zero(node) and 0 in shape):
            found.append(node)
    return found


def _shape_input(node: NodeProto) -> str:
    """The input of a node that is the shape of its result, or none."""
    if node.op_type == "Reshape":
        return node.input[1]
    whole = (
        node.op_type == "Resize"
        and len(node.input) == 4
        and not any(a.name == "axes" for a in node.attribute)
    )
    return node.input[3] if whole else ""


def _allows_zero(node: NodeProto) -> bool:
    """Whether 0 in a shape means nothing but 0; else it means: as the input."""
    return any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)


def _constants(graph: GraphProto) -> dict[str, NDArray[np.int64]]:
    """Vectors of 64-bit integers that the graph has as such."""
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in nodes.constants(graph)
        if tensor.data_type == TensorProto.INT64 and len(tensor.dims) == 1
    }


def _release_node(graph: GraphProto, node: NodeProto) -> None:
    place = 1 if node.op_type == "Reshape" else 3
    shape = _constants(graph)[node.input[place]]
    name = f"{node.output[0]}.any_batch"
    if node.op_type == "Reshape":
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
        released = np.concatenate([[0], shape[1:]]).astype(np.int64)
        graph.initializer.append(numpy_helper.from_array(released, name))
    else:
        rest, first, last = f"{name}.rest", f"{name}.first", f"{name}.last"
        for constant, value in ((rest, shape[1:]), (first, [0]), (last, [1])):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), constant))
        before = [
            helper.make_node("Shape", [node.input[0]], [f"{name}.shape"]),
            helper.make_node("Slice", [f"{name}.shape", first, last], [f"{name}.size"]),
            helper.make_node("Concat", [f"{name}.size", rest], [name], axis=0),
        ]
        at = list(graph.node).index(node)
        for offset, new in enumerate(before):
            graph.node.insert(at + offset, new)
    node.input[place] = name
