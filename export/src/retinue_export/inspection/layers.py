"""Where in a network its bytes and its multiply-adds are."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from retinue_export.inspection import macs, weights
from retinue_export.inspection.shapes import Shape, for_one_image

_MODULE_PATTERN = re.compile(r"(.*?)[._](?:weight|bias)(?![a-z])")
_SEPARATORS = re.compile(r"[./]+")
_WRAPPER = "network."
_MOST_STAGES = 24
_LARGEST_SHARE = 0.25
"""Of all multiply-adds; a stage with more is divided where its modules allow it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that has parameters or multiplies, or several of them together.

    Attributes:
        name: the module's, where the names of its weights tell it, else the node's.
        operator: of the node; the names of all, where it stands for several.
        output_shape: for one image; None where it is not known.
        parameters: how many numbers it has learned.
        stored_bytes: of all its constants. What several nodes use belongs to the first of them.
        macs: multiply-adds for one image; None where they are not known.
    """

    name: str
    operator: str
    output_shape: Shape | None
    parameters: int
    stored_bytes: int
    macs: int | None


def read(model: onnx.ModelProto, known: dict[str, weights.Constant]) -> list[Layer]:
    """The layers of a graph, in its order.

    Args:
        model: without functions of its own.
        known: its constants.
    """
    shapes = for_one_image(model)
    owned = weights.owners(model.graph, known)
    layers = []
    for place, node in enumerate(model.graph.node):
        constants = owned.get(place, [])
        parameters = sum(constant.count for constant in constants if constant.is_parameter)
        multiply_adds = macs.of(node, shapes) if node.output else 0
        if parameters or multiply_adds != 0:
            layers.append(
                Layer(
                    name=module_of(constants) or node.name or node.output[0],
                    operator=node.op_type,
                    output_shape=shapes.get(node.output[0]),
                    parameters=parameters,
                    stored_bytes=sum(constant.stored_bytes for constant in constants),
                    macs=multiply_adds,
                )
            )
    return layers


def stages(layers: Sequence[Layer]) -> list[Layer]:
    """Layers summed by the modules that they lie in; what does most of the work is divided further.

    Layers of no named module, such as products of attention, belong to the stage before them.

    Returns:
        In the graph's order: the outermost modules, however many, and parts of them as long as that makes at most 24;
        none where no layer's name tells its module.
    """
    paths = _module_paths(layers)
    names = [path[:1] for path in paths]
    total = sum(layer.macs or 0 for layer in layers)
    divided = bool(paths)
    while divided:
        work: dict[tuple[str, ...], int] = {}
        for layer, name in zip(layers, names, strict=True):
            work[name] = work.get(name, 0) + (layer.macs or 0)
        divided = False
        for large in sorted(
            (name for name in work if work[name] > _LARGEST_SHARE * total), key=work.__getitem__
        ):
            finer = [
                path[: len(name) + 1] if name == large else name
                for path, name in zip(paths, names, strict=True)
            ]
            if finer != names and len(set(finer)) <= _MOST_STAGES:
                names, divided = finer, True
                break
    return _summed(layers, [".".join(name) for name in names]) if names else []


def by_operator(layers: Sequence[Layer]) -> list[Layer]:
    """Layers summed by operator."""
    return _summed(layers, [layer.operator for layer in layers])


def largest(layers: Sequence[Layer], size: Callable[[Layer], int], count: int) -> list[Layer]:
    """The layers with the most of something, largest first; those with none are left out."""
    return sorted((layer for layer in layers if size(layer)), key=size, reverse=True)[:count]


def _summed(layers: Sequence[Layer], names: Sequence[str]) -> list[Layer]:
    together: dict[str, list[Layer]] = {}
    for layer, name in zip(layers, names, strict=True):
        together.setdefault(name, []).append(layer)
    return [
        Layer(
            name=name,
            operator=", ".join(sorted({layer.operator for layer in part})),
            output_shape=part[-1].output_shape,
            parameters=sum(layer.parameters for layer in part),
            stored_bytes=sum(layer.stored_bytes for layer in part),
            macs=sum(layer.macs or 0 for layer in part),
        )
        for name, part in together.items()
    ]


def module_of(constants: Sequence[weights.Constant]) -> str | None:
    """The name of the module that the constants of a node are of, where their names tell it."""
    for constant in sorted(constants, key=lambda constant: constant.count, reverse=True):
        matched = _MODULE_PATTERN.match(constant.name)
        if matched and constant.is_parameter:
            return matched[1].removeprefix(_WRAPPER)
    return None


def _module_paths(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """The parts of the name of each layer, or of the named one before it, or of the first; none where none is named."""
    split = [tuple(part for part in _SEPARATORS.split(layer.name) if part) for layer in layers]
    named = [parts for parts in split if len(parts) > 1]
    if not named:
        return []
    paths, latest = [], named[0]
    for parts in split:
        latest = parts if len(parts) > 1 else latest
        paths.append(latest)
    return paths
