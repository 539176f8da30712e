"""What a manifest says, in words."""

from retinue.v1 import manifest_pb2 as pb

from retinue_export.precision import short_name
from retinue_export.quantities import percent
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec, ResizeMode


def name_of(enum: str, prefix: str) -> str:
    """An enum's value as a word: "TASK_CLASSIFY" is "classify"."""
    return enum.removeprefix(prefix).lower().replace("_", " ")


def precision(value: pb.Precision.ValueType) -> str:
    """A precision as the command line writes it; its number where it is one that is not known here."""
    return short_name(value) if value in pb.Precision.values() else str(value)


def facts(manifest: pb.ModelManifest) -> dict[str, str]:
    """A validated manifest line by line; what it leaves out is left out.

    Returns:
        Sentences by a word or two. They contain what the file says, which may be anything.
    """
    source = manifest.source
    lines = {
        "task": name_of(pb.Task.Name(manifest.task), "TASK_"),
        "classes": str(len(manifest.labels)),
        "image": prepared(manifest_file.input_spec(manifest)),
        "levels": _normalisation(manifest.input),
        "detections": _detections(manifest),
        "class map": _class_map(manifest),
        "precision": precision(manifest.precision),
        "quantised": _quantisation(manifest.quantisation),
        "speed": ", ".join(map(_speed, manifest.speeds)),
        "network": source.architecture,
        "weights": source.weights,
        "licence": source.licence,
        "framework": source.framework,
        "made": manifest.created_at,
    }
    return {word: line for word, line in lines.items() if line}


def prepared(spec: InputSpec) -> str:
    """How an image becomes a network's input."""
    size = f"{spec.height} x {spec.width} (height x width), {'grey' if spec.grey else 'RGB'}"
    if spec.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP:
        rule = f"shorter side to {spec.shorter_side} pixels, then the centre"
    elif spec.resize_mode is ResizeMode.LETTERBOX:
        rule = f"fitted in, bars of level {spec.pad_value} around"
    else:
        rule = "stretched"
    drafted = "; large JPEGs decoded small" if spec.draft_decoding else ""
    return f"{size}: {rule}, {spec.resample.name.lower()}{drafted}"


def _normalisation(image: pb.ImageInput) -> str:
    if not image.HasField("normalisation"):
        return ""
    mean = ", ".join(f"{value:.4g}" for value in image.normalisation.mean)
    deviation = ", ".join(f"{value:.4g}" for value in image.normalisation.deviation)
    return f"in [0, 1] less {mean}, divided by {deviation}, inside the graph"


def _detections(manifest: pb.ModelManifest) -> str:
    if manifest.task != pb.TASK_DETECT:
        return ""
    options = manifest.detect
    more = [f", of {options.max_regions} given regions"] if options.max_regions else []
    if options.mask_height:
        more.append(f", with masks of {options.mask_height} x {options.mask_width}")
    if options.keypoint_names:
        more.append(f", with keypoints: {', '.join(options.keypoint_names)}")
    return (
        f"at most {options.max_detections} an image, score over {options.min_score:g} "
        f"({options.default_score_threshold:g} unless asked otherwise), "
        f"merged where they overlap by more than {percent(options.nms_iou_threshold)}"
        f"{' unless asked otherwise' if options.adjustable_thresholds else ''}{''.join(more)}"
    )


def _quantisation(done: pb.Quantisation) -> str:
    if not done.method:
        return ""
    return (
        f"{done.method}; on {done.calibration_images} images of {done.calibration}; "
        f"{len(done.float_nodes)} nodes stay in float"
    )


def _speed(measured: pb.SpeedMeasurement) -> str:
    return (
        f"{precision(measured.precision)} {measured.images_per_second:.4g} images/s at batch {measured.batch_size} "
        f"({measured.provider}, {measured.device})"
    )


def _class_map(manifest: pb.ModelManifest) -> str:
    if manifest.task != pb.TASK_SEGMENT:
        return ""
    options = manifest.segment
    return f"{options.map_height} x {options.map_width} (height x width)"
