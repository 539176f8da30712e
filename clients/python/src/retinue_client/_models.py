"""What the server says of the models it serves."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from retinue.v1 import manifest_pb2, serving_pb2, vision_service_pb2

Task: TypeAlias = Literal["classify", "detect", "segment"]
"""The kinds of question a model answers."""

_TASKS: dict[int, Task | Literal["tensor"]] = {
    manifest_pb2.TASK_CLASSIFY: "classify",
    manifest_pb2.TASK_DETECT: "detect",
    manifest_pb2.TASK_SEGMENT: "segment",
    manifest_pb2.TASK_TENSOR: "tensor",
}
_TASK_NUMBERS: dict[Task | None, manifest_pb2.Task.ValueType] = {
    None: manifest_pb2.TASK_UNSPECIFIED,
    "classify": manifest_pb2.TASK_CLASSIFY,
    "detect": manifest_pb2.TASK_DETECT,
    "segment": manifest_pb2.TASK_SEGMENT,
}


@dataclass(frozen=True, slots=True)
class Quality:
    """One figure measured on labelled images.

    Attributes:
        metric: "top1_accuracy", "map_50", "map_50_95", "mean_iou", ...; or how often a network of fewer bits
            answers as it did in fp32: "top1_agreement", "pixel_agreement", "detection_agreement".
        value: What was measured, on the scale of the measure; for all of the above in [0, 1].
        dataset: The labelled set.
        images: How many images were measured.
        precision: "fp32", "fp16", "int8" or "fp16_weights": of the network that was measured.
        engine: What ran it: "pytorch" or "onnxruntime".
    """

    metric: str
    value: float
    dataset: str
    images: int
    precision: str
    engine: str


@dataclass(frozen=True, slots=True, repr=False)
class ModelInfo:
    """A model that is served, and how it runs there.

    Attributes:
        name: Its name.
        version: Its version, at least 1.
        task: What it answers; "unknown" where the server knows a task that this client does not.
        description: What it recognises and what it was trained on.
        labels: The name of each class, by class id.
        input_height: Rows of the network's input.
        input_width: Columns of the network's input.
        colour: "rgb" or "grey".
        precision: "fp32", "fp16", "int8" or "fp16_weights".
        quality: What was measured on labelled images. Empty where no labelled set exists.
        architecture: The network, such as "torchvision.models.mobilenet_v2".
        licence: The licence of the weights.
        sha256: SHA-256 of the ONNX file, 64 lower-case hexadecimal digits.
        created_at: When the bundle was made, RFC 3339, UTC.
        default_score_threshold: For detectors: the score from which a detection is returned when none is
            named.
        max_detections: For detectors: the most detections of one image.
        max_regions: For detectors: how many given regions of an image it judges; 0 where it looks at the whole
            image.
        gives_masks: Whether it can say which pixels show each object.
        keypoint_names: The keypoints it finds of each object, in their order; empty where it finds none.
        adjustable_thresholds: Whether it takes another `iou_threshold` than its own.
        gives_heatmaps: Whether it can say where the most probable class is seen.
        background_class_id: For segmenters: the class of pixels that belong to no object, or None.
        provider: The ONNX Runtime execution provider that runs it, such as "CPUExecutionProvider".
        requested_provider: "auto", "cpu", "cuda" or "tensorrt".
        fallback_reason: Why no better provider runs it; empty if none could.
        runtime_version: The version of ONNX Runtime.
        max_batch_size: The largest batch that is run.
        instances: How many batches can run at once.
        threads_per_instance: Threads inside one run.
        memory_bytes: Bytes that the model takes at most: the sum of the next three.
        weights_bytes: Bytes of its weights as they are in use; on a GPU, on the device.
        arena_bytes: Bytes that ONNX Runtime holds beside them, activations above all; on a GPU, on the device.
        buffers_bytes: Bytes of the images on their way into the network and of the answers on their way out.
        images_per_second: Of one instance at max_batch_size, decoding not counted.
        lone_image_us: What one image takes in microseconds that has the machine to itself, decoding not counted; 0
            where it was not measured.
        alone_on_all_cores: Whether such an image is run on all cores.
        version_labels: The labels of this version, by which requests may name it.
        traffic_percent: How many of a hundred requests it answers of those that name no version; None where the server
            shares none out, so that all go to the newest.
        sticky_key: The entry of a request's metadata that decides which version answers; empty where chance does.
        shadow_percent: How many of a hundred requests that other versions answer are copied to it, to be compared.
        steps: Of a pipeline, the models that run one after the other; empty for every other model.
    """

    name: str
    version: int
    task: Task | Literal["tensor", "unknown"]
    description: str
    labels: tuple[str, ...]
    input_height: int
    input_width: int
    colour: str
    precision: str
    quality: tuple[Quality, ...]
    architecture: str
    licence: str
    sha256: str
    created_at: str
    default_score_threshold: float | None
    max_detections: int | None
    max_regions: int
    gives_masks: bool
    keypoint_names: tuple[str, ...]
    adjustable_thresholds: bool
    gives_heatmaps: bool
    background_class_id: int | None
    provider: str
    requested_provider: str
    fallback_reason: str
    runtime_version: str
    max_batch_size: int
    instances: int
    threads_per_instance: int
    memory_bytes: int
    weights_bytes: int
    arena_bytes: int
    buffers_bytes: int
    images_per_second: float
    lone_image_us: int
    alone_on_all_cores: bool
    version_labels: tuple[str, ...]
    traffic_percent: int | None
    sticky_key: str
    shadow_percent: int
    steps: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<ModelInfo {self.name} v{self.version}: {self.task}, {len(self.labels):,} classes, "
            f"{self.input_width}x{self.input_height} {self.colour}, {self.precision}, {self.provider}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        fields = asdict(self)
        fields["labels"] = list(self.labels)
        fields["keypoint_names"] = list(self.keypoint_names)
        fields["version_labels"] = list(self.version_labels)
        fields["steps"] = list(self.steps)
        fields["quality"] = list(fields["quality"])
        return fields


def list_models_request(task: Task | None) -> vision_service_pb2.ListModelsRequest:
    """The request for the models of a task, or of every task.

    Raises:
        ValueError: There is no such task.
    """
    if task not in _TASK_NUMBERS:
        raise ValueError(f"{task!r} is no task: 'classify', 'detect' and 'segment' are.")
    return vision_service_pb2.ListModelsRequest(task=_TASK_NUMBERS[task])


def model_info(model: vision_service_pb2.Model) -> ModelInfo:
    """Reads one model from the wire."""
    manifest, execution, serving = model.manifest, model.execution, model.serving
    kind = manifest.WhichOneof("task_options")
    background = manifest.segment.background_class_id if kind == "segment" else -1
    return ModelInfo(
        name=model.name,
        version=model.version,
        task=_TASKS.get(manifest.task, "unknown"),
        description=manifest.description,
        labels=tuple(manifest.labels),
        input_height=manifest.input.height,
        input_width=manifest.input.width,
        colour=_short(manifest_pb2.Colour, manifest.input.colour, "COLOUR_"),
        precision=_short(manifest_pb2.Precision, manifest.precision, "PRECISION_"),
        quality=tuple(
            Quality(
                metric=entry.metric,
                value=entry.value,
                dataset=entry.dataset,
                images=entry.images,
                precision=_short(manifest_pb2.Precision, entry.precision, "PRECISION_"),
                engine=entry.engine,
            )
            for entry in manifest.quality
        ),
        architecture=manifest.source.architecture,
        licence=manifest.source.licence,
        sha256=manifest.sha256,
        created_at=manifest.created_at,
        default_score_threshold=manifest.detect.default_score_threshold if kind == "detect" else None,
        max_detections=manifest.detect.max_detections if kind == "detect" else None,
        max_regions=manifest.detect.max_regions,
        gives_masks=manifest.detect.mask_height > 0,
        keypoint_names=tuple(manifest.detect.keypoint_names),
        adjustable_thresholds=manifest.detect.adjustable_thresholds,
        gives_heatmaps=manifest.classify.heatmap_height > 0,
        background_class_id=background if background >= 0 else None,
        provider=execution.provider,
        requested_provider=execution.requested_provider,
        fallback_reason=execution.fallback_reason,
        runtime_version=execution.runtime_version,
        max_batch_size=execution.max_batch_size,
        instances=execution.instances,
        threads_per_instance=execution.threads_per_instance,
        memory_bytes=execution.memory_bytes,
        weights_bytes=execution.memory.weights_bytes,
        arena_bytes=execution.memory.arena_bytes,
        buffers_bytes=execution.memory.buffers_bytes,
        images_per_second=execution.images_per_second,
        lone_image_us=execution.lone_image_us,
        alone_on_all_cores=execution.alone_on_all_cores,
        version_labels=tuple(
            sorted(label for label, version in serving.labels.items() if version == model.version)
        ),
        traffic_percent=_percent(model, *serving.split) if serving.split else None,
        sticky_key=serving.sticky_key,
        shadow_percent=_percent(model, serving.shadow),
        steps=tuple(step.model for step in manifest.pipeline.steps),
    )


def _percent(model: vision_service_pb2.Model, *shares: serving_pb2.TrafficShare) -> int:
    """The shares of a model's version, together."""
    labels = model.serving.labels
    return sum(
        share.percent
        for share in shares
        if model.version
        == (labels.get(share.label) if share.WhichOneof("target") == "label" else share.version)
    )


def _short(enum: Any, number: int, prefix: str) -> str:
    """An enum value's name as people write it: PRECISION_FP16_WEIGHTS is "fp16_weights"."""
    name = enum.Name(number) if number in enum.values() else "UNKNOWN"
    return str(name).removeprefix(prefix).lower()
