"""Tiny bundles whose right answer anybody can see: class 0 is red, 1 is green, 2 is blue."""

import hashlib
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
) -> Path:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, name, [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
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
    manifest.sha256 = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(
        json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    )
    return folder
