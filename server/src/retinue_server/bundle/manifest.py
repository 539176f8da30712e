"""Reads manifest.json and refuses one that does not hold, naming the file and the field."""

import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle import json_file
from retinue_server.errors import BundleError
from retinue_server.vision.spec import InputSpec, ResizeMode

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_INPUT_SIDE = 8192
MAX_REGIONS = 4096
MAX_STEPS = 8
# What protobuf can hold. Source: protobuf.dev, "Proto Limits".
_MOST_GRAPH_BYTES = 2**31 - 1

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# One line, without what steers a terminal: control characters and the separators of lines and paragraphs.
LABEL_PATTERN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,256}")
LABEL_RULE = "1 to 256 characters, and no control characters"
# What to do about a file that nobody can mend, and about one that may be written by hand, as pipelines' are.
_REPLACE = "copy or export the bundle again"
_CORRECT = "correct it, or copy or export the bundle again"

# Whether it holds, the field, and what that must be.
_Check = tuple[bool, str, str]

_PIPELINE_FIELDS = frozenset({"format_version", "name", "task", "pipeline", "description"})
_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")

_OPTIONS = {pb.TASK_CLASSIFY: "classify", pb.TASK_DETECT: "detect", pb.TASK_SEGMENT: "segment"}
_RESIZE_MODES = {
    pb.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP: ResizeMode.SHORTER_SIDE_CENTER_CROP,
    pb.RESIZE_MODE_LETTERBOX: ResizeMode.LETTERBOX,
    pb.RESIZE_MODE_STRETCH: ResizeMode.STRETCH,
}
_RESAMPLING = {
    pb.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    pb.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
    pb.INTERPOLATION_NEAREST: Image.Resampling.NEAREST,
}
# Enums are open in proto3: a number without a name parses.
_PRECISIONS = frozenset(pb.Precision.values()) - {pb.PRECISION_UNSPECIFIED}


def read(folder: Path, check: Callable[[bytes], object] = lambda content: None) -> pb.ModelManifest:
    """Reads and validates the manifest of the bundle in `folder`.

    Args:
        folder: The bundle's.
        check: Told the file's content before anything is made of it; what it raises is raised.

    Raises:
        BundleError: The file is missing, is not a manifest, or a field is out of its range.
    """
    path = folder / MANIFEST_FILE
    manifest = json_file.read(path, pb.ModelManifest(), MAX_MANIFEST_BYTES, _CORRECT, check)
    _validate(manifest, path)
    return manifest


def check_hash(folder: Path, manifest: pb.ModelManifest) -> None:
    """Compares the SHA-256 of model.onnx with the manifest's.

    Raises:
        BundleError: The file is missing, no regular file, too large, or another one than the manifest describes.
    """
    path = folder / MODEL_FILE
    check_size(path)
    actual = file_sha256(path)
    if actual != manifest.sha256:
        raise BundleError(
            f"{path} has SHA-256 {actual}, but field `sha256` of {MANIFEST_FILE} says {manifest.sha256}: "
            f"the file was changed or cut short; {_REPLACE}."
        )


def check_size(path: Path) -> None:
    """Refuses a file that is too large for a graph, before anybody reads for an hour what cannot be loaded.

    Raises:
        BundleError: It is, or cannot be opened.
    """
    with json_file.opened(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes > _MOST_GRAPH_BYTES:
        raise BundleError(
            f"{path} has {size_bytes} bytes, and ONNX allows {_MOST_GRAPH_BYTES}: it is no graph; {_REPLACE}."
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal.

    Raises:
        BundleError: The file cannot be read.
    """
    with json_file.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_spec(manifest: pb.ModelManifest) -> InputSpec:
    """What a validated manifest says about the graph's input."""
    image, resize = manifest.input, manifest.input.resize
    return InputSpec(
        height=image.height,
        width=image.width,
        grey=image.colour == pb.COLOUR_GREY,
        resize_mode=_RESIZE_MODES[resize.mode],
        resample=_RESAMPLING[resize.interpolation],
        shorter_side=resize.shorter_side,
        pad_value=resize.pad_value,
        draft_decoding=image.draft_decoding,
    )


def _validate(manifest: pb.ModelManifest, path: Path) -> None:
    checks = _pipeline_checks(manifest) if manifest.HasField("pipeline") else _graph_checks(manifest)
    for holds, field, rule in [*_file_checks(manifest), *checks]:
        if not holds:
            raise BundleError(f"{path}: field `{field}` {rule}.")


def _file_checks(manifest: pb.ModelManifest) -> list[_Check]:
    return [
        (manifest.format_version == FORMAT_VERSION, "format_version", f"must be {FORMAT_VERSION}"),
        (
            NAME_PATTERN.fullmatch(manifest.name) is not None,
            "name",
            "must be letters, digits, '.', '_' and '-'",
        ),
    ]


def _pipeline_checks(manifest: pb.ModelManifest) -> list[_Check]:
    steps = manifest.pipeline.steps
    most = 2 if manifest.task == pb.TASK_DETECT else MAX_STEPS
    others = [field.name for field, _ in manifest.ListFields() if field.name not in _PIPELINE_FIELDS]
    checks: list[_Check] = [
        (not others, others[0] if others else "", "must not be set beside `pipeline`"),
        (
            manifest.task in (pb.TASK_DETECT, pb.TASK_TENSOR),
            "task",
            "must be TASK_DETECT or TASK_TENSOR for a pipeline",
        ),
        (
            2 <= len(steps) <= most,
            "pipeline.steps",
            "must be a detector and a classifier" if most == 2 else f"must be 2 to {MAX_STEPS}",
        ),
    ]
    for number, step in enumerate(steps):
        field = f"pipeline.steps[{number}]"
        named = NAME_PATTERN.fullmatch(step.model) is not None
        takes = number > 0 and manifest.task == pb.TASK_TENSOR
        checks += [
            (named, f"{field}.model", "must be letters, digits, '.', '_' and '-'"),
            (step.version >= 0, f"{field}.version", "must be at least 1, or 0 for any"),
            (takes or not step.inputs, f"{field}.inputs", "must be empty: they are the pipeline's own"),
            (
                all(map(LABEL_PATTERN.fullmatch, [*step.inputs, *step.inputs.values()])),
                f"{field}.inputs",
                f"must be names, of {LABEL_RULE}",
            ),
        ]
    return checks


def _graph_checks(manifest: pb.ModelManifest) -> list[_Check]:
    image, resize = manifest.input, manifest.input.resize
    largest_side = max(image.height, image.width)
    crops = resize.mode == pb.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP
    return [
        (manifest.task in _OPTIONS, "task", "must be a known task"),
        (
            manifest.WhichOneof("task_options") in (None, _OPTIONS.get(manifest.task)),
            "task",
            f"must be the one that `{manifest.WhichOneof('task_options')}` belongs to",
        ),
        (1 <= image.height <= MAX_INPUT_SIDE, "input.height", f"must be 1 to {MAX_INPUT_SIDE}"),
        (1 <= image.width <= MAX_INPUT_SIDE, "input.width", f"must be 1 to {MAX_INPUT_SIDE}"),
        (
            image.colour in (pb.COLOUR_RGB, pb.COLOUR_GREY),
            "input.colour",
            "must be COLOUR_RGB or COLOUR_GREY",
        ),
        (resize.mode in _RESIZE_MODES, "input.resize.mode", "must be a known resize mode"),
        (resize.interpolation in _RESAMPLING, "input.resize.interpolation", "must be a known filter"),
        (
            largest_side <= resize.shorter_side <= MAX_INPUT_SIDE if crops else resize.shorter_side == 0,
            "input.resize.shorter_side",
            f"must be {largest_side} to {MAX_INPUT_SIDE} for a centre crop and 0 otherwise",
        ),
        (0 <= resize.pad_value <= 255, "input.resize.pad_value", "must be 0 to 255"),
        (
            _is_normalisation(image),
            "input.normalisation",
            "must have a finite mean and a deviation over 0 for each channel",
        ),
        (len(manifest.labels) >= 1, "labels", "must name at least one class"),
        (all(map(LABEL_PATTERN.fullmatch, manifest.labels)), "labels", f"must be names, of {LABEL_RULE}"),
        (
            _SHA256_PATTERN.fullmatch(manifest.sha256) is not None,
            "sha256",
            "must be 64 lower-case hex digits",
        ),
        (manifest.opset >= 1, "opset", "must be at least 1"),
        (manifest.precision in _PRECISIONS, "precision", "must be a known precision"),
        *_task_checks(manifest),
    ]


def _task_checks(manifest: pb.ModelManifest) -> list[_Check]:
    if manifest.task == pb.TASK_CLASSIFY:
        classify = manifest.classify
        return _optional_size("classify.heatmap", classify.heatmap_height, classify.heatmap_width)
    if manifest.task == pb.TASK_DETECT:
        detect = manifest.detect
        return [
            (detect.max_detections >= 1, "detect.max_detections", "must be at least 1"),
            (_is_unit(detect.min_score), "detect.min_score", "must be in [0, 1]"),
            (_is_unit(detect.nms_iou_threshold), "detect.nms_iou_threshold", "must be in [0, 1]"),
            (_is_unit(detect.default_score_threshold), "detect.default_score_threshold", "must be in [0, 1]"),
            (
                0 <= detect.max_regions <= MAX_REGIONS,
                "detect.max_regions",
                f"must be 0, for none, to {MAX_REGIONS}",
            ),
            *_optional_size("detect.mask", detect.mask_height, detect.mask_width),
            (
                all(map(LABEL_PATTERN.fullmatch, detect.keypoint_names)),
                "detect.keypoint_names",
                f"must be names, of {LABEL_RULE}",
            ),
            (
                len(set(detect.keypoint_names)) == len(detect.keypoint_names),
                "detect.keypoint_names",
                "must have each name once",
            ),
        ]
    if manifest.task == pb.TASK_SEGMENT:
        segment = manifest.segment
        return [
            (
                1 <= segment.map_height <= MAX_INPUT_SIDE,
                "segment.map_height",
                f"must be 1 to {MAX_INPUT_SIDE}",
            ),
            (1 <= segment.map_width <= MAX_INPUT_SIDE, "segment.map_width", f"must be 1 to {MAX_INPUT_SIDE}"),
            (
                -1 <= segment.background_class_id < len(manifest.labels),
                "segment.background_class_id",
                "must be a class id or -1",
            ),
            (len(manifest.labels) <= 65536, "labels", "must be at most 65536 for a class map"),
        ]
    return []


def _optional_size(what: str, height: int, width: int) -> list[_Check]:
    """Checks the size of a map that a graph may give."""
    return [
        (0 <= height <= MAX_INPUT_SIDE, f"{what}_height", f"must be 0, for none, to {MAX_INPUT_SIDE}"),
        (
            (1 <= width <= MAX_INPUT_SIDE) if height else width == 0,
            f"{what}_width",
            f"must be 1 to {MAX_INPUT_SIDE}, or 0 where {what.rpartition('.')[2]}_height is",
        ),
    ]


def _is_normalisation(image: pb.ImageInput) -> bool:
    if not image.HasField("normalisation"):
        return True
    mean, deviation = image.normalisation.mean, image.normalisation.deviation
    channels = 1 if image.colour == pb.COLOUR_GREY else 3
    return (
        len(mean) == len(deviation) == channels
        and all(map(math.isfinite, mean))
        and all(math.isfinite(value) and value > 0 for value in deviation)
    )


def _is_unit(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1
