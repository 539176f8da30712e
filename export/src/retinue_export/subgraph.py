"""Parts of graphs."""

from collections.abc import Collection

import onnx

from retinue_export.nodes import values_used


def leading_to(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """What of a graph is needed for some of its tensors, which become the only outputs.

    Args:
        model: without functions of its own; stays as it is.
        outputs: names of tensors in it. What the graph says of their types is kept.

    Returns:
        A copy of that part alone: layers before the largest weights take little.
    """
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(values_used(node))
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(kept))
    part.graph.input.extend(value for value in model.graph.input if value.name in needed)
    part.graph.initializer.extend(value for value in model.graph.initializer if value.name in needed)
    described = {value.name: value for value in model.graph.output}
    part.graph.output.extend(described.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    return part
