"""Bundles that are slow, fail on some images, or are broken: made from the tiny colour bundles."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import colour_bundles

_MATRIX_SIDE = 512
_TURNS_A_LEVEL = 2
_FAR_OUT_OF_BOUNDS = 1_000_000
_LONG_SIDE = 500
_LONG_PAD = 200


def edit_graph(bundle: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """Changes a bundle's graph in place; its manifest gets the new hash. Returns the bundle."""
    path = bundle / "model.onnx"
    model = onnx.load(path)
    edit(model)
    return replace_model(bundle, model.SerializeToString())


def replace_model(bundle: Path, content: bytes) -> Path:
    """Replaces model.onnx; the manifest gets the new hash. Returns the bundle."""
    (bundle / "model.onnx").write_bytes(content)
    colour_bundles.rewrite_manifest(bundle, sha256=hashlib.sha256(content).hexdigest())
    return bundle


def slow_classifier(models: Path, name: str = "slow-classifier", least_level: int = 0) -> Path:
    """The colour classifier, slowed by the darkest level of the brightest image of a batch: a few milliseconds each.

    Noise, which a new model is measured with, has a darkest level of about 0.

    Args:
        models: Where the bundle goes.
        name: Its name.
        least_level: Darker images are as slow as those of this level.
    """
    bundle = colour_bundles.classifier(models, name)

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [_MATRIX_SIDE, _MATRIX_SIDE])
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["going"], ["still_going"]),
                helper.make_node("MatMul", ["state", "matrix"], ["next_state"]),
            ],
            "work",
            [
                helper.make_tensor_value_info("turn", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                state,
            ],
            [
                helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [_MATRIX_SIDE, _MATRIX_SIDE]),
            ],
        )
        _insert_before_softmax(
            graph,
            [
                *_brightness(),
                helper.make_node("Max", ["brightness", "least_level"], ["level"]),
                helper.make_node("Mul", ["level", "turns_a_level"], ["turns"]),
                helper.make_node("Loop", ["turns", "", "matrix"], ["worn"], body=body),
                helper.make_node("ReduceMax", ["worn"], ["largest"], keepdims=0),
                helper.make_node("Mul", ["largest", "nothing_much"], ["addend"]),
            ],
        )
        matrix = np.full((_MATRIX_SIDE, _MATRIX_SIDE), 1 / _MATRIX_SIDE, np.float32)
        graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
        graph.initializer.append(numpy_helper.from_array(np.array(1e-20, np.float32), "nothing_much"))
        graph.initializer.append(numpy_helper.from_array(np.array(least_level), "least_level"))
        graph.initializer.append(numpy_helper.from_array(np.array(_TURNS_A_LEVEL), "turns_a_level"))

    return edit_graph(bundle, edit)


def failing_classifier(models: Path, name: str = "failing-classifier") -> Path:
    """The colour classifier, whose graph fails on a batch with a white image."""
    bundle = colour_bundles.classifier(models, name)

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        _insert_before_softmax(
            graph,
            [
                *_brightness(),
                helper.make_node("Equal", ["brightness", "white"], ["is_white"]),
                helper.make_node("Cast", ["is_white"], ["zero_or_one"], to=TensorProto.INT64),
                helper.make_node("Mul", ["zero_or_one", "far"], ["place"]),
                helper.make_node("Gather", ["zeros", "place"], ["addend"]),
            ],
        )
        graph.initializer.append(numpy_helper.from_array(np.array(255), "white"))
        graph.initializer.append(numpy_helper.from_array(np.array(_FAR_OUT_OF_BOUNDS), "far"))
        graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "zeros"))

    return edit_graph(bundle, edit)


def hanging_classifier(models: Path, name: str = "hanging-classifier", *, in_one_node: bool = False) -> Path:
    """The colour classifier, which does not end on a batch with a white image.

    Args:
        models: Where the bundle goes.
        name: Its name.
        in_one_node: Whether one operator takes half a minute, which ONNX Runtime cannot stop; else it is a loop of
            2**40 turns, which it can.
    """
    bundle = colour_bundles.classifier(models, name)

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        white = [
            *_brightness(),
            helper.make_node("Equal", ["brightness", "white"], ["is_white"]),
            helper.make_node("Cast", ["is_white"], ["zero_or_one"], to=TensorProto.INT64),
        ]
        graph.initializer.append(numpy_helper.from_array(np.array(255), "white"))
        _insert_before_softmax(graph, [*white, *(_long_node(graph) if in_one_node else _long_loop(graph))])

    return edit_graph(bundle, edit)


def _long_loop(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that make `addend`, after 2**40 turns where `zero_or_one` is one."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Mul", ["state", "half"], ["next_state"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, []),
        ],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(2**40), "many"))
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    return [
        helper.make_node("Mul", ["zero_or_one", "many"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "nothing"], ["addend"], body=body),
    ]


def _long_node(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that make `addend`, one of which is a huge convolution where `zero_or_one` is one."""
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1, 1]), "small"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, _LONG_SIDE, _LONG_SIDE]), "growth"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    return [
        helper.make_node("Mul", ["zero_or_one", "growth"], ["grown"]),
        helper.make_node("Add", ["grown", "small"], ["shape"]),
        helper.make_node("Expand", ["nothing", "shape"], ["plane"]),
        # Each of its outputs is a sum over as many products as there are outputs.
        helper.make_node("Conv", ["plane", "plane"], ["summed"], pads=[_LONG_PAD] * 4),
        helper.make_node("ReduceSum", ["summed"], ["addend"], keepdims=0),
    ]


def wide_classifier(models: Path, name: str = "wide-classifier") -> Path:
    """The colour classifier with two more matrix products, of weights whose size is no multiple of 64 bytes."""
    bundle = colour_bundles.classifier(models, name)

    def edit(model: onnx.ModelProto) -> None:
        nodes = [
            helper.make_node("MatMul", ["means", "there"], ["wide"]),
            helper.make_node("Relu", ["wide"], ["positive"]),
            helper.make_node("MatMul", ["positive", "back"], ["addend"]),
        ]
        _insert_before_softmax(model.graph, nodes)
        there = np.eye(3, 5999, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(there, "there"))
        model.graph.initializer.append(numpy_helper.from_array(there.T.copy(), "back"))

    return edit_graph(bundle, edit)


def scaled(bundle: Path, output: str, factor: float) -> Path:
    """Multiplies an output of floats, so that it breaks the contract. Returns the bundle."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        place = next(place for place, node in enumerate(graph.node) if output in node.output)
        producer = graph.node[place]
        producer.output[list(producer.output).index(output)] = "right"
        graph.node.insert(place + 1, helper.make_node("Mul", ["right", "factor"], [output]))
        graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))

    return edit_graph(bundle, edit)


def _brightness() -> list[onnx.NodeProto]:
    """Nodes that make `brightness`, int64 []: the darkest level of the brightest image."""
    return [
        helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.INT64),
        helper.make_node("ReduceMin", ["levels", "within_an_image"], ["darkest"], keepdims=0),
        helper.make_node("ReduceMax", ["darkest"], ["brightness"], keepdims=0),
    ]


def _insert_before_softmax(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Adds the nodes' `addend` to what the classifier's softmax gets."""
    *before, softmax = graph.node
    softmax.input[0] = "worn_means"
    del graph.node[:]
    graph.node.extend(
        [*before, *nodes, helper.make_node("Add", ["means", "addend"], ["worn_means"]), softmax]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "within_an_image"))


def replace_by_link(path: Path, target: Path) -> None:
    """Puts a link where a file was."""
    path.unlink()
    path.symlink_to(target)
