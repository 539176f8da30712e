"""A graph as ONNX Runtime has optimised it for a CPU, written so that the sessions that open it share its weights."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

if TYPE_CHECKING:
    import onnx

GRAPH_FILE = "model.onnx"
# The same graph with its extra outputs, for a model that has such.
EXTRAS_FILE = "extras.onnx"

# Where weights outside of a bundle's model are looked for: nowhere, since its hash does not cover them. Else a model
# could name any file of this machine.
NO_WEIGHTS_OUTSIDE = ("session.model_external_initializers_file_folder_path", os.devnull)

_WEIGHTS_OUTSIDE = {
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    # Nearly all that are so large end at a multiple of `_PACKED_ALIGNMENT_BYTES`.
    "session.optimized_model_external_initializers_min_size_in_bytes": str(64 * 1024),
}
# Weights are kept in the form that matrix products want them in, too, so that all sessions share it. ONNX Runtime 1.31
# crashes where that makes a file of over 2 GiB: of a model with weights of 16 bits, four times its size.
_SAVE_PACKED = ("session.save_external_prepacked_constant_initializers", "1")
_MOST_BYTES_TO_PACK = 256 * 1024 * 1024
# It crashes, too, where the packed form does not begin at a multiple of this, which its writer does not look after.
_PACKED_ALIGNMENT_BYTES = 64
_PACKED_KEY = "prepacked_"


def write(path: Path, folder: Path, options: ort.SessionOptions, extra_outputs: Collection[str]) -> None:
    """Optimises a model for this processor.

    Args:
        path: Of the model.
        folder: Made, for `GRAPH_FILE`, for `EXTRAS_FILE` where there are extra outputs, and for the weights of both.
        options: What the sessions will be opened with, but for the optimisation, which they need not do again.
        extra_outputs: What `GRAPH_FILE` does not compute. ONNX Runtime computes all outputs of a graph, whatever it is
            asked for: RunOptions.only_execute_path_to_fetches has an effect in builds for training only (its issue
            16013).

    Raises:
        Exception: ONNX Runtime cannot read it.
    """
    # It takes twelve megabytes, and a server that finds everything in its cache does without.
    import onnx  # noqa: PLC0415

    options.add_session_config_entry(*NO_WEIGHTS_OUTSIDE)
    for key, value in _WEIGHTS_OUTSIDE.items():
        options.add_session_config_entry(key, value)
    graph_file = folder / GRAPH_FILE
    options.optimized_model_filepath = str(graph_file)
    packs = path.stat().st_size <= _MOST_BYTES_TO_PACK
    options.add_session_config_entry(_SAVE_PACKED[0], "1" if packs else "0")
    folder.mkdir()
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(graph_file, load_external_data=False)
    if packs and not _packed_are_aligned(model):
        shutil.rmtree(folder)
        folder.mkdir()
        options.add_session_config_entry(_SAVE_PACKED[0], "0")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        model = onnx.load(graph_file, load_external_data=False)
    if extra_outputs:
        graph_file.rename(folder / EXTRAS_FILE)
        _prune(model.graph, extra_outputs)
        graph_file.write_bytes(model.SerializeToString())


def _prune(graph: "onnx.GraphProto", outputs: Collection[str]) -> None:
    """Takes outputs out of a graph, and all that only they need."""
    kept = [output for output in graph.output if output.name not in outputs]
    needed = {output.name for output in kept}
    nodes: list[onnx.NodeProto] = []
    # They come in an order in which each has its inputs made before it.
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(_inputs(node))
            nodes.append(node)
    weights = [weight for weight in graph.initializer if weight.name in needed]
    for field in ("output", "node", "initializer"):
        graph.ClearField(field)
    graph.output.extend(kept)
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weights)


def _inputs(node: "onnx.NodeProto") -> Iterator[str]:
    """What a node takes, and what branches and bodies in it take from around them; perhaps names of their own, too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from _inputs(inner)


def _packed_are_aligned(model: "onnx.ModelProto") -> bool:
    """Whether all packed weights begin where ONNX Runtime can use them."""
    # The kernel whose form it is, then each piece's offset, length and hash: "Gemm+8413|3360;5376;0|...".
    entries = [
        entry.value.split("|")[1:]
        for weight in model.graph.initializer
        for entry in weight.external_data
        if entry.key.startswith(_PACKED_KEY)
    ]
    offsets = (int(piece.partition(";")[0]) for pieces in entries for piece in pieces)
    return all(offset % _PACKED_ALIGNMENT_BYTES == 0 for offset in offsets)
