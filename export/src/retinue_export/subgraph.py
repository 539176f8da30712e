"""Parts of graphs."""

from collections.abc import Collection

import onnx

from retinue_export.nodes import values_used


def needed(graph: onnx.GraphProto, outputs: Collection[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """What of a graph is needed for some of its tensors.

    Returns:
        The nodes, in the graph's order; and the names of these tensors and of all that the nodes use.
    """
    names, kept = set(outputs), []
    for node in reversed(graph.node):
        if names.intersection(node.output):
            kept.append(node)
            names.update(values_used(node))
    return kept[::-1], names


def leading_to(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """What of a graph is needed for some of its tensors, which become the only outputs.

    Args:
        model: without functions of its own; stays as it is.
        outputs: names of tensors in it. What the graph says of their types is kept.

    Returns:
        A copy of that part alone: layers before the largest weights take little.
    """
    kept, names = needed(model.graph, outputs)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(kept)
    part.graph.input.extend(value for value in model.graph.input if value.name in names)
    part.graph.initializer.extend(value for value in model.graph.initializer if value.name in names)
    described = {value.name: value for value in model.graph.output}
    part.graph.output.extend(described.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    return part
