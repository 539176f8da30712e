"""ONNX models that have no manifest: what can be checked of their files before they are loaded."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle.json_file import printable
from retinue_server.bundle.manifest import check_size, file_sha256
from retinue_server.errors import BundleError

if TYPE_CHECKING:
    import onnx

_LOCATION = "location"
# TensorProto.EXTERNAL.
_EXTERNAL = 1


def describe(name: str, path: Path) -> pb.ModelManifest:
    """What is known of a model that has no manifest.

    Args:
        name: Its name.
        path: Of its graph.

    Raises:
        BundleError: It cannot be read, or has weights elsewhere.
    """
    check_size(path)
    files = _weights_beside(path)
    sha256 = file_sha256(path)
    if files:
        # Of all: what other weights compute is another network.
        hashes = [sha256, *(f"{name} {file_sha256(path.parent / name)}" for name in files)]
        sha256 = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return pb.ModelManifest(name=name, task=pb.TASK_TENSOR, sha256=sha256)


def _weights_beside(path: Path) -> list[str]:
    """The files beside a graph that have its weights; elsewhere they may not be: it could name any file there is.

    Raises:
        BundleError: They do, or the file is no graph.
    """
    # It takes twelve megabytes, and a server of bundles does without.
    import onnx  # noqa: PLC0415

    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:
        # protobuf's and the file system's, which share nothing else.
        raise BundleError(f"{path} is no ONNX model: {type(error).__name__}; copy it again.") from error
    folder = path.parent.resolve()
    locations = sorted(set(_locations(graph)))
    for location in locations:
        try:
            inside = (folder / location).resolve().parent == folder
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise BundleError(
                f"{path} keeps weights in '{printable(location[:128])}', which is not beside it; put all weights into "
                "its folder, or into the file itself.",
                reason="WEIGHTS_OUTSIDE",
            )
    return locations


def _locations(model: "onnx.ModelProto") -> Iterator[str]:
    tensors = [*_of_graph(model.graph)]
    for function in model.functions:
        tensors += _of_nodes(function.node)
    for tensor in tensors:
        if tensor.data_location == _EXTERNAL:
            # Of what is no UTF-8, protobuf gives the bytes.
            yield from (os.fsdecode(entry.value) for entry in tensor.external_data if entry.key == _LOCATION)


def _of_graph(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable["onnx.NodeProto"]) -> Iterator["onnx.TensorProto"]:
    """What nodes hold, and their branches and bodies."""
    for node in nodes:
        for attribute in node.attribute:
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _of_graph(inner)
