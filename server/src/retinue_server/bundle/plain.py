"""ONNX models that have no manifest: what can be checked of their files before they are loaded."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from retinue_server.errors import BundleError

_LOCATION = "location"


def check_weights_inside(path: Path) -> None:
    """Refuses a graph whose weights lie in files elsewhere than beside it: it could name any file of this machine.

    Args:
        path: Of the graph.

    Raises:
        BundleError: They do, or the file is no graph.
    """
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:
        # protobuf's and the file system's, which share nothing else.
        raise BundleError(f"{path} is no ONNX model: {type(error).__name__}; copy it again.") from error
    folder = path.parent.resolve()
    for location in sorted(set(_locations(graph))):
        try:
            inside = (folder / location).resolve().parent == folder
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise BundleError(
                f"{path} keeps weights in '{location[:128]}', which is not beside it; put all weights into its folder, "
                "or into the file itself.",
                reason="WEIGHTS_OUTSIDE",
            )


def _locations(model: onnx.ModelProto) -> Iterator[str]:
    tensors = [*_of_graph(model.graph)]
    for function in model.functions:
        tensors += _of_nodes(function.node)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in tensor.external_data if entry.key == _LOCATION)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """What nodes hold, and their branches and bodies."""
    for node in nodes:
        for attribute in node.attribute:
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _of_graph(inner)
