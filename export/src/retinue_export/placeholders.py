"""Places in an exported module that are filled with ONNX nodes afterwards.

Where the middle of a network is one of those parts that PyTorch does not export with a dynamic batch, the module leaves
a placeholder there, which has shapes but computes nothing, and the graph gets nodes in its place.
"""

from collections.abc import Callable

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

_DOMAIN = "retinue"

Outputs = list[tuple[torch.dtype, tuple[int | torch.SymInt, ...]]]
"""Type and shape of each output."""
Append = Callable[[onnx.ModelProto, list[str], list[str]], None]
"""Appends nodes to a graph whose outputs are the inputs named first; they compute what is named second."""


def leave(name: str, inputs: list[Tensor], outputs: Outputs) -> list[Tensor]:
    """Leaves a placeholder in a module that is being exported.

    Args:
        name: what `fill` finds it by.
        inputs: float32; all dimensions but the first are fixed.
        outputs: type and shape of each.
    """
    dtypes, shapes = zip(*outputs, strict=True)
    left: list[Tensor] = list(
        torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{name}",
            inputs,
            {f"shape_{number}": list(value.shape[1:]) for number, value in enumerate(inputs)},
            dtypes=dtypes,
            shapes=shapes,
            version=1,
        )
    )
    return left


def fill(model: onnx.ModelProto, name: str, append: Append) -> None:
    """Puts nodes where `leave` has left a placeholder, in place.

    Args:
        model: the exported graph.
        name: the placeholder's.
        append: see there; what it does to the graph's outputs is undone.
    """
    nodes, outputs = list(model.graph.node), list(model.graph.output)
    (place,) = (number for number, node in enumerate(nodes) if (node.domain, node.op_type) == (_DOMAIN, name))
    placeholder = nodes[place]
    shapes = {attribute.name: list(attribute.ints) for attribute in placeholder.attribute}
    del model.graph.node[place:], model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(value, TensorProto.FLOAT, [None, *shapes[f"shape_{number}"]])
        for number, value in enumerate(placeholder.input)
    )
    append(model, list(placeholder.input), list(placeholder.output))
    model.graph.node.extend(nodes[place + 1 :])
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    if not any(node.domain == _DOMAIN for node in model.graph.node):
        kept = [opset for opset in model.opset_import if opset.domain != _DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(kept)
