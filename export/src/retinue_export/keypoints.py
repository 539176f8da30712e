"""From heatmaps to keypoints as ONNX nodes: what torchvision does detection by detection, exactly.

Each heatmap is scaled to the size that its box has in pixels, by bicubic interpolation, and the keypoint is where the
result is largest. Boxes differ in size, so this is a loop in the graph, too. What interpolation does to rows and to
columns is a matrix each, had by interpolating the identity: two small products instead of the scaling of every map.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from retinue_export.nodes import Builder, output_shapes


def append(model: onnx.ModelProto, heatmaps: str, boxes: str, result: str) -> None:
    """Puts the search behind a graph, in place.

    Args:
        model: the graph; opset 18 or later.
        heatmaps: name of its output float32 [R,K,m,m].
        boxes: name of its output float32 [R,4], x1,y1,x2,y2 in pixels.
        result: name of what is added, float32 [R,K,3]: x and y in pixels, and the value of the heatmap there. It is not
            made an output.

    Source: `torchvision.models.detection.roi_heads.heatmaps_to_keypoints`.
    """
    count, side = output_shapes(model.graph)[heatmaps][1:3]
    builder = Builder(model.graph, result)
    trips = builder.add("Squeeze", builder.add("Shape", boxes, end=1))
    builder.add("Loop", trips, "", result=result, body=_body(heatmaps, boxes, result, count, side))


def _body(heatmaps: str, boxes: str, result: str, count: int, side: int) -> onnx.GraphProto:
    prefix = f"{result}.of_one"
    number, going, goes_on, found = (f"{prefix}.{name}" for name in ("number", "going", "goes_on", "found"))
    body = helper.make_graph(
        [],
        prefix,
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(found, TensorProto.FLOAT, [count, 3]),
        ],
    )
    builder = Builder(body, prefix)
    builder.add("Identity", going, result=goes_on)
    box = builder.add("Gather", boxes, number, axis=0)
    corner, opposite = builder.add_many("Split", 2, box, axis=0, num_outputs=2)
    size = builder.add(
        "Max", builder.add("Sub", opposite, corner), builder.constant("one", np.array(1, np.float32))
    )
    pixels = builder.add("Ceil", size)
    columns, rows = builder.add_many(
        "Split", 2, builder.add("Cast", pixels, to=TensorProto.INT64), axis=0, num_outputs=2
    )
    heatmap = builder.add("Gather", heatmaps, number, axis=0)
    enlarged = builder.add(
        "MatMul",
        builder.add("MatMul", _enlarging(builder, "rows", rows, side), heatmap),
        builder.add("Transpose", _enlarging(builder, "columns", columns, side), perm=[1, 0]),
    )
    flat = builder.add("Reshape", enlarged, builder.constant("flat", np.array([count, -1], np.int64)))
    best = builder.add("ReduceMax", flat, builder.constant("last_axis", np.array([1], np.int64)))
    place = builder.add("ArgMax", flat, axis=1)
    x_and_y = builder.add(
        "Concat", builder.add("Mod", place, columns), builder.add("Div", place, columns), axis=1
    )
    middle = builder.add(
        "Add",
        builder.add("Cast", x_and_y, to=TensorProto.FLOAT),
        builder.constant("half", np.array(0.5, np.float32)),
    )
    inside = builder.add("Mul", middle, builder.add("Div", size, pixels))
    builder.add("Concat", builder.add("Add", inside, corner), best, axis=1, result=found)
    return body


def _enlarging(builder: Builder, name: str, pixels: str, side: int) -> str:
    """The matrix [pixels,side] that interpolates one axis, as PyTorch's "bicubic" does."""
    return builder.add(
        "Resize",
        builder.constant(f"identity_of_{name}", np.eye(side, dtype=np.float32)),
        "",
        "",
        builder.add("Concat", pixels, builder.constant(f"side_of_{name}", np.array([side])), axis=0),
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="half_pixel",
    )
