"""What may lose bits lies between the layers with weights, and nothing else."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retinue_export import trunk


def model(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("answer",)) -> onnx.ModelProto:
    """A graph of these nodes; each is named after its first output. `weight` and `boxes_of` are stored."""
    for node in nodes:
        node.name = node.output[0]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weight")
    graph = helper.make_graph(
        list(nodes),
        "tested",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [weight],
    )
    return helper.make_model(graph)


def layer(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "weight"], [target])


def plain(kind: str, sources: list[str], target: str) -> onnx.NodeProto:
    return helper.make_node(kind, sources, [target])


def test_what_comes_before_the_first_layer_and_behind_the_last_is_outside() -> None:
    made = model(
        plain("Mul", ["images", "images"], "scaled"),
        layer("scaled", "first"),
        plain("Relu", ["first"], "active"),
        layer("active", "second"),
        plain("Add", ["second", "active"], "sum"),
        layer("sum", "third"),
        plain("Softmax", ["third"], "answer"),
    )
    assert trunk.outside(made) == {"scaled", "answer"}
    assert [node.name for node in trunk.layers(made)] == ["first", "second", "third"]


def test_a_product_of_two_activations_is_no_layer_but_may_lie_between_layers() -> None:
    made = model(
        layer("images", "queries"),
        layer("images", "keys"),
        plain("MatMul", ["queries", "keys"], "attention"),
        layer("attention", "values"),
        plain("MatMul", ["values", "values"], "answer"),
    )
    assert trunk.outside(made) == {"answer"}


def test_what_regions_are_chosen_by_is_outside_although_layers_go_on_from_them() -> None:
    made = model(
        layer("images", "features"),
        layer("features", "deltas"),
        plain("Exp", ["deltas"], "boxes"),
        plain("NonMaxSuppression", ["boxes", "boxes"], "chosen"),
        plain("RoiAlign", ["features", "chosen", "chosen"], "pooled"),
        layer("pooled", "answer"),
    )
    assert trunk.outside(made) == {"boxes", "chosen"}


def test_a_graph_without_layers_is_all_outside() -> None:
    made = model(plain("Relu", ["images"], "answer"))
    assert trunk.layers(made) == []
    assert trunk.outside(made) == {"answer"}
