"""Shapes of values for one image."""

import onnx
import pytest
from onnx import parser

from retinue_export.inspection import shapes


def _stating(*sizes: int) -> onnx.ModelProto:
    """A convolution of 3x3 on images of a shape."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        conv (float[N,1,H,W] x, float[2,1,3,3] weight) => (float[N,2,h,w] y) { y = Conv(x, weight) }"""
    )
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    return model


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((1, 1, 9, 9), (1, 2, 7, 7)),
        ((1, 1, 0, 9), (1, 2, None, 7)),
        ((1, 1, -5, 9), (1, 2, None, 7)),
        ((1, 1, 1, 9), (1, 2, None, 7)),
        ((0, 1, 9, 9), (1, 2, 7, 7)),
        ((-1, 1, 9, 9), (1, 2, 7, 7)),
    ],
)
def test_sizes_under_one_are_not_known(sizes: tuple[int, ...], shape: tuple[int | None, ...]) -> None:
    assert shapes.for_one_image(_stating(*sizes))["y"] == shape
