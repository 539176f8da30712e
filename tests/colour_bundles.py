"""Tiny bundles whose right answer anybody can see: class 0 is red, 1 is green, 2 is blue."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import json_format
from onnx import TensorProto, helper, numpy_helper
from retinue.v1 import manifest_pb2 as pb

LABELS = ("red", "green", "blue")
SIDE = 8
OPSET = 18


def classifier(models: Path, name: str = "colour-classifier", version: int = 1) -> Path:
    """Probabilities: softmax of the mean of each channel, 0 to 255."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "height_and_width"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])]
    constants = [numpy_helper.from_array(np.array([1, 2]), "height_and_width")]
    return _write(models, name, version, nodes, outputs, constants, pb.ModelManifest(task=pb.TASK_CLASSIFY))


def locator(
    models: Path,
    name: str = "colour-locator",
    version: int = 1,
    resize: pb.ResizeMode.ValueType = pb.RESIZE_MODE_STRETCH,
) -> Path:
    """The classifier, with a heatmap: at each pixel the best class's level less the mean level of the channels."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "height_and_width"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["means"], ["best"], axis=1, keepdims=0),
        helper.make_node("OneHot", ["best", "three", "off_and_on"], ["chosen"]),
        helper.make_node("Unsqueeze", ["chosen", "height_and_width"], ["everywhere"]),
        helper.make_node("Mul", ["floats", "everywhere"], ["levels"]),
        helper.make_node("ReduceSum", ["levels", "last_axis"], ["best_levels"], keepdims=0),
        helper.make_node("ReduceMean", ["floats", "last_axis"], ["mean_levels"], keepdims=0),
        helper.make_node("Sub", ["best_levels", "mean_levels"], ["heatmap"]),
    ]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["N", SIDE, SIDE]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "height_and_width"),
        numpy_helper.from_array(np.array([3]), "three"),
        numpy_helper.from_array(np.array([3]), "last_axis"),
        numpy_helper.from_array(np.array([0, 1], np.float32), "off_and_on"),
    ]
    options = pb.ClassifyOptions(heatmap_height=SIDE, heatmap_width=SIDE)
    manifest = pb.ModelManifest(task=pb.TASK_CLASSIFY, classify=options)
    folder = _write(models, name, version, nodes, outputs, constants, manifest)
    if resize != pb.RESIZE_MODE_STRETCH:
        manifest.input.resize.mode = resize
        if resize == pb.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP:
            manifest.input.resize.shorter_side = SIDE
        rewrite_manifest(
            folder, input=json_format.MessageToDict(manifest.input, preserving_proto_field_name=True)
        )
    return folder


def detector(models: Path, name: str = "colour-detector", version: int = 1) -> Path:
    """One detection a channel, the strongest first: the whole image's left half, scored by the channel's mean / 255."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "height_and_width"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "white"], ["shares"]),
        helper.make_node("TopK", ["shares", "three"], ["scores", "order"], axis=1),
        helper.make_node("Cast", ["order"], ["classes"], to=TensorProto.INT32),
        helper.make_node("Shape", ["scores"], ["rows_and_classes"]),
        helper.make_node("Concat", ["rows_and_classes", "four"], ["boxes_shape"], axis=0),
        helper.make_node("Expand", ["box", "boxes_shape"], ["boxes"]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 3, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, ["N", 3]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "height_and_width"),
        numpy_helper.from_array(np.array(255, np.float32), "white"),
        numpy_helper.from_array(np.array([3]), "three"),
        numpy_helper.from_array(np.array([4]), "four"),
        numpy_helper.from_array(np.array([0, 0, SIDE / 2, SIDE], np.float32), "box"),
    ]
    options = pb.DetectOptions(
        max_detections=3, min_score=0, nms_iou_threshold=0.5, default_score_threshold=0.5
    )
    return _write(
        models,
        name,
        version,
        nodes,
        outputs,
        constants,
        pb.ModelManifest(task=pb.TASK_DETECT, detect=options),
    )


def region_detector(
    models: Path, name: str = "colour-regions", version: int = 1, max_regions: int = 3
) -> Path:
    """Judges regions by their mean channels / 255; its left half is its mask, its middle its keypoint.

    Args:
        models: the folder of all models.
        name: the bundle's.
        version: the bundle's.
        max_regions: how many it looks at, and finds.
    """
    from retinue_export import nms
    from retinue_export.nms import Suppression

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["shares"]),
        helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["regions", "any_by_four"], ["all_regions"]),
        helper.make_node("Shape", ["score_threshold"], ["images_shape"]),
        helper.make_node("Squeeze", ["images_shape"], ["image_count"]),
        helper.make_node("Range", ["nought", "image_count", "one"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "last_axis"], ["column"]),
        helper.make_node("Concat", ["images_shape", "region_count"], ["numbers_shape"], axis=0),
        helper.make_node("Expand", ["column", "numbers_shape"], ["repeated"]),
        helper.make_node("Reshape", ["repeated", "any"], ["image_of_region"]),
        helper.make_node(
            "RoiAlign",
            ["planes", "all_regions", "image_of_region"],
            ["means"],
            output_height=1,
            output_width=1,
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Reshape", ["means", "by_region_by_class"], ["by_region"]),
        helper.make_node("ReduceMax", ["regions", "last_axis"], ["furthest"], keepdims=1),
        helper.make_node("Greater", ["furthest", "zero"], ["used"]),
        helper.make_node("Where", ["used", "by_region", "zero"], ["judged"]),
        helper.make_node("Transpose", ["judged"], ["dense_scores"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["regions"], ["dense_boxes"]),
    ]
    outputs = [
        helper.make_tensor_value_info("dense_boxes", TensorProto.FLOAT, ["N", max_regions, 4]),
        helper.make_tensor_value_info("dense_scores", TensorProto.FLOAT, ["N", 3, max_regions]),
    ]
    constants = [
        numpy_helper.from_array(np.array(255, np.float32), "white"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array([-1, 4]), "any_by_four"),
        numpy_helper.from_array(np.array([-1]), "any"),
        numpy_helper.from_array(np.array([-1]), "last_axis"),
        numpy_helper.from_array(np.array([-1, max_regions, 3]), "by_region_by_class"),
        numpy_helper.from_array(np.array([max_regions]), "region_count"),
        numpy_helper.from_array(np.array(0), "nought"),
        numpy_helper.from_array(np.array(1), "one"),
        numpy_helper.from_array(
            np.repeat([[1, 0]], 8, axis=0).repeat(4, axis=1).astype(np.float32), "left_half"
        ),
        numpy_helper.from_array(
            np.array([0.5, 0, 0, 0, 0.5, 0, 0.5, 0, 0, 0, 0.5, 0], np.float32).reshape(4, 3), "middle"
        ),
        numpy_helper.from_array(np.array([0, 0, 1], np.float32), "sure"),
        numpy_helper.from_array(np.array([-2]), "before_last_axis"),
        numpy_helper.from_array(np.array([8, 8]), "mask_size"),
    ]
    options = pb.DetectOptions(
        max_detections=max_regions,
        nms_iou_threshold=0.5,
        default_score_threshold=0.5,
        adjustable_thresholds=True,
        max_regions=max_regions,
        mask_height=8,
        mask_width=8,
        keypoint_names=["middle"],
    )

    def finish(graph: onnx.ModelProto) -> None:
        nms.append(graph, "dense_boxes", "dense_scores", Suppression(max_regions, 0, 0.5), adjustable=True)
        graph.graph.node.extend(
            [
                helper.make_node("MatMul", ["boxes", "middle"], ["middles"]),
                helper.make_node("Add", ["middles", "sure"], ["points"]),
                helper.make_node("Unsqueeze", ["points", "before_last_axis"], ["keypoints"]),
                helper.make_node("Shape", ["scores"], ["scores_shape"]),
                helper.make_node("Concat", ["scores_shape", "mask_size"], ["masks_shape"], axis=0),
                helper.make_node("Expand", ["left_half", "masks_shape"], ["masks"]),
            ]
        )
        graph.graph.input.append(
            helper.make_tensor_value_info("regions", TensorProto.FLOAT, ["N", max_regions, 4])
        )
        graph.graph.output.extend(
            [
                helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, ["N", max_regions, 1, 3]),
                helper.make_tensor_value_info("masks", TensorProto.FLOAT, ["N", max_regions, 8, 8]),
            ]
        )

    manifest = pb.ModelManifest(task=pb.TASK_DETECT, detect=options)
    return _write(models, name, version, nodes, outputs, constants, manifest, finish)


def segmenter(models: Path, name: str = "colour-segmenter", version: int = 1) -> Path:
    """Each pixel has the class of its strongest channel."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["floats"], ["strongest"], axis=3, keepdims=0),
        helper.make_node("Cast", ["strongest"], ["class_map"], to=TensorProto.UINT8),
    ]
    outputs = [helper.make_tensor_value_info("class_map", TensorProto.UINT8, ["N", SIDE, SIDE])]
    options = pb.SegmentOptions(map_height=SIDE, map_width=SIDE, background_class_id=-1)
    return _write(
        models, name, version, nodes, outputs, [], pb.ModelManifest(task=pb.TASK_SEGMENT, segment=options)
    )


def rewrite_manifest(bundle: Path, **changes: object) -> None:
    """Sets top-level fields of a bundle's manifest, valid or not; None removes one."""
    import json

    path = bundle / "manifest.json"
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            fields.pop(name, None)
        else:
            fields[name] = value
    path.write_text(json.dumps(fields))


def _write(
    models: Path,
    name: str,
    version: int,
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
    manifest: pb.ModelManifest,
    finish: Callable[[onnx.ModelProto], None] = lambda _model: None,
) -> Path:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, name, [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    finish(model)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()

    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    manifest.format_version = 1
    manifest.name = name
    manifest.input.CopyFrom(
        pb.ImageInput(
            height=SIDE,
            width=SIDE,
            colour=pb.COLOUR_RGB,
            resize=pb.ResizeRule(mode=pb.RESIZE_MODE_STRETCH, interpolation=pb.INTERPOLATION_BILINEAR),
        )
    )
    manifest.labels.extend(LABELS)
    manifest.opset = OPSET
    manifest.precision = pb.PRECISION_FP32
    manifest.sha256 = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(
        json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    )
    return folder
