"""Multiply-adds, counted by hand and against what others count."""

import onnx
import pytest
import torch
from onnx import parser
from torchvision import models

from retinue_export import graph
from retinue_export.errors import ExportError
from retinue_export.inspection import layers, macs, shapes, weights

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.example" : 1]>'


def counted(text: str) -> list[int | None]:
    """What each node of a graph takes for one image."""
    model = parser.parse_model(f"{HEADER} {text}")
    found = shapes.for_one_image(model)
    return [macs.of(node, found) for node in model.graph.node]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 4 filters of 3x2x2, at 3x4 places.
        ("g (float[N,3,4,5] x, float[4,3,2,2] w) => (float[N,4,3,4] y) { y = Conv(x, w) }", 4 * 12 * 12),
        # Two groups: each filter sees half of the channels. Stride 2.
        (
            "g (float[N,4,5,5] x, float[6,2,3,3] w) => (float[N,6,2,2] y) { y = Conv<group=2, strides=[2,2]>(x, w) }",
            6 * 2 * 2 * (2 * 3 * 3),
        ),
        # Each of the 3x2x2 inputs is spread over 5 channels of 4x4.
        (
            "g (float[N,3,2,2] x, float[3,5,4,4] w) => (float[N,5,a,b] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
            3 * 2 * 2 * (5 * 4 * 4),
        ),
        ("g (float[N,7] x, float[5,7] w) => (float[N,5] y) { y = Gemm<transB=1>(x, w) }", 7 * 5),
        ("g (float[7,3] x, float[7,5] w) => (float[3,5] y) { y = Gemm<transA=1>(x, w) }", 7 * 3 * 5),
        ("g (float[N,6,7] x, float[7,5] w) => (float[N,6,5] y) { y = MatMul(x, w) }", 6 * 7 * 5),
        ("g (float[N,2,6,7] x, float[N,2,7,6] w) => (float[N,2,6,6] y) { y = MatMul(x, w) }", 2 * 6 * 7 * 6),
        (
            'g (float[N,6,7] x, float[7,5] w) => (float[N,6,5] y) { y = Einsum<equation="nij,jk->nik">(x, w) }',
            6 * 7 * 5,
        ),
        # Nothing is multiplied.
        ('g (float[N,6,7] x) => (float[N,7,6] y) { y = Einsum<equation="nij->nji">(x) }', 0),
        ('g (float[N,6,7] x) => (float[N] y) { y = Einsum<equation="n...->n">(x) }', 0),
        ("g (uint8[N,6] x, int8[6,5] w) => (int32[N,5] y) { y = MatMulInteger(x, w) }", 6 * 5),
        # 2 heads, 6 queries, 9 keys, width 4 of queries and 5 of values.
        (
            "g (float[N,2,6,4] q, float[N,2,9,4] k, float[N,2,9,5] v) => (float[N,2,6,5] y) { y = Attention(q, k, v) }",
            2 * 6 * 9 * (4 + 5),
        ),
        ("g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }", 0),
        ("g (float[N,3,h,w] x, float[4,3,2,2] w) => (float[N,4,a,b] y) { y = Conv(x, w) }", None),
    ],
)
def test_a_node_takes_what_its_shapes_say(text: str, expected: int | None) -> None:
    assert counted(text) == [expected]


def test_shapes_that_depend_on_the_batch_are_computed() -> None:
    text = """g (float[N,3] x, float[3,5] w) => (float[M,5] y) {
        zero = Constant<value=int64 {0}>()
        one = Constant<value=int64 {1}>()
        size = Shape<start=0, end=1>(x)
        rows = Squeeze(size)
        order = Range(zero, rows, one)
        picked = Gather<axis=0>(x, order)
        y = MatMul(picked, w)
    }"""
    assert counted(text)[-1] == 3 * 5


def test_what_may_be_work_and_is_not_counted_is_known() -> None:
    model = parser.parse_model(
        f"{HEADER} g (float[N,3] x) => (float[N,3] z) {{ y = com.example.Magic(x)  z = Relu(y) }}"
    )
    assert [macs.hides_work(node) for node in model.graph.node] == [True, False]
    assert macs.of(model.graph.node[0], {}) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet50", "vit_b_16"])
def test_torchvision_counts_the_same(name: str) -> None:
    """Up to its rounding to millions."""
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]
    wrapped = graph.PixelsIn(models.get_model(name, weights=None).eval(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = graph.export(wrapped, torch.zeros(2, 224, 224, 3, dtype=torch.uint8), ["logits"])
    found = layers.read(model, weights.constants(model))
    assert sum(layer.macs or 0 for layer in found) / 1e9 == pytest.approx(published, abs=1e-3)


def test_a_graph_that_contradicts_itself_is_refused() -> None:
    model = parser.parse_model(f"{HEADER} g (float[N,3,4,4] x) => (float[N,3,4,4] y) {{ y = Relu(x) }}")
    model.graph.node[0].input.append("x")
    with pytest.raises(ExportError, match="not valid ONNX"):
        shapes.for_one_image(model)


def test_counting_leaves_the_graph_as_it_is() -> None:
    model = parser.parse_model(
        f"{HEADER} g (float[N,3] x, float[3,5] w) => (float[N,5] y) {{ y = MatMul(x, w) }}"
    )
    before = onnx.ModelProto()
    before.CopyFrom(model)
    shapes.for_one_image(model)
    assert model == before
