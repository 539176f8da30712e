"""What a graph takes and gives by its bundle's manifest, and whether one does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinue.v1 import manifest_pb2 as pb

from retinue_server.bundle.manifest import input_spec
from retinue_server.errors import BundleError

IMAGES = "images"
SCORE_THRESHOLD = "score_threshold"
IOU_THRESHOLD = "iou_threshold"
REGIONS = "regions"

_FLOAT = frozenset({"tensor(float)"})


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output.

    Attributes:
        kinds: ONNX Runtime's names of the element types that it may have.
        sizes: Of each dimension behind the first, with the manifest's field that says so.
        batched: Whether the first dimension is the batch, and so dynamic; else it is 1.
    """

    kinds: frozenset[str]
    sizes: tuple[tuple[int, str], ...] = ()
    batched: bool = True

    def __str__(self) -> str:
        shape = ", ".join(["N" if self.batched else "1", *(str(size) for size, _ in self.sizes)])
        return f"{' or '.join(sorted(self.kinds))} [{shape}]"


def inputs(manifest: pb.ModelManifest) -> Mapping[str, Tensor]:
    """What the graph takes."""
    spec = input_spec(manifest)
    image = ((spec.height, "input"), (spec.width, "input"), (spec.channels, "input"))
    taken = {IMAGES: Tensor(frozenset({"tensor(uint8)"}), image)}
    if manifest.detect.adjustable_thresholds:
        taken[SCORE_THRESHOLD] = Tensor(_FLOAT)
        taken[IOU_THRESHOLD] = Tensor(_FLOAT, batched=False)
    if manifest.detect.max_regions:
        taken[REGIONS] = Tensor(_FLOAT, ((manifest.detect.max_regions, "detect.max_regions"), (4, "task")))
    return taken


def outputs(manifest: pb.ModelManifest) -> Mapping[str, Tensor]:
    """What the graph gives in every run."""
    if manifest.task == pb.TASK_CLASSIFY:
        return {"probabilities": Tensor(_FLOAT, ((len(manifest.labels), "labels"),))}
    if manifest.task == pb.TASK_SEGMENT:
        segment = manifest.segment
        size = ((segment.map_height, "segment.map_height"), (segment.map_width, "segment.map_width"))
        return {"class_map": Tensor(frozenset({"tensor(uint8)", "tensor(int32)"}), size)}
    rows = _rows(manifest)
    given = {
        "boxes": Tensor(_FLOAT, (rows, (4, "task"))),
        "scores": Tensor(_FLOAT, (rows,)),
        "classes": Tensor(frozenset({"tensor(int32)"}), (rows,)),
    }
    if names := manifest.detect.keypoint_names:
        given["keypoints"] = Tensor(_FLOAT, (rows, (len(names), "detect.keypoint_names"), (3, "task")))
    return given


def extra_outputs(manifest: pb.ModelManifest) -> Mapping[str, Tensor]:
    """What the graph gives in the runs that ask for it."""
    detect, classify = manifest.detect, manifest.classify
    given = {}
    if detect.mask_height:
        size = ((detect.mask_height, "detect.mask_height"), (detect.mask_width, "detect.mask_width"))
        given["masks"] = Tensor(_FLOAT, (_rows(manifest), *size))
    if classify.heatmap_height:
        size = (
            (classify.heatmap_height, "classify.heatmap_height"),
            (classify.heatmap_width, "classify.heatmap_width"),
        )
        given["heatmap"] = Tensor(_FLOAT, size)
    return given


def check(path: Path, manifest: pb.ModelManifest, taken: Sequence[Any], given: Sequence[Any]) -> None:
    """Holds a graph against its manifest.

    Args:
        path: Of the graph, for the messages.
        manifest: What its bundle says.
        taken: ONNX Runtime's descriptions of its inputs.
        given: Likewise of its outputs.

    Raises:
        BundleError: They do not fit.
    """
    wanted = inputs(manifest)
    if unknown := [value.name for value in taken if value.name not in wanted]:
        raise BundleError(
            f"{path}: the graph takes {', '.join(map(repr, unknown))}, but by the manifest it takes "
            f"{', '.join(map(repr, wanted))} only."
        )
    for kind, values, tensors in (
        ("input", taken, wanted),
        ("output", given, {**outputs(manifest), **extra_outputs(manifest)}),
    ):
        present = {value.name: value for value in values}
        for name, tensor in tensors.items():
            if name not in present:
                raise BundleError(
                    f"{path}: {kind} '{name}' is missing; the graph has {', '.join(present) or 'none'}."
                )
            _check_tensor(f"{path}: {kind} '{name}'", present[name], tensor)


def _check_tensor(where: str, value: Any, tensor: Tensor) -> None:
    if value.type not in tensor.kinds or len(value.shape) != 1 + len(tensor.sizes):
        raise BundleError(f"{where} is {value.type} {value.shape}, but the contract wants {tensor}.")
    if tensor.batched and isinstance(value.shape[0], int):
        raise BundleError(f"{where} has the fixed batch size {value.shape[0]}; it must be dynamic.")
    for axis, (size, field) in enumerate(tensor.sizes, start=1):
        found = value.shape[axis]
        if isinstance(found, int) and found != size:
            raise BundleError(f"{where} has {found} in dimension {axis}, but field `{field}` says {size}.")


def _rows(manifest: pb.ModelManifest) -> tuple[int, str]:
    return manifest.detect.max_detections, "detect.max_detections"
