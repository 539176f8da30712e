"""One of the two bundles: opened, and asked in the images' own pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from retinue.v1 import manifest_pb2 as pb

from retinue_export import nms, parity
from retinue_export.errors import ExportError
from retinue_export.parity import Outputs, Runner
from retinue_server.bundle import manifest as manifest_file
from retinue_server.runtime.session import explain
from retinue_server.vision.spec import InputSpec

_NEEDED: Mapping[int, tuple[str, ...]] = {
    pb.TASK_CLASSIFY: ("probabilities",),
    pb.TASK_DETECT: ("boxes", "scores", "classes"),
    pb.TASK_SEGMENT: ("class_map",),
}


@dataclass(frozen=True, slots=True)
class Side:
    """A bundle that answers.

    Attributes:
        folder: its version folder.
        manifest: validated.
        spec: how it wants images.
        runner: its graph.
    """

    folder: Path
    manifest: pb.ModelManifest
    spec: InputSpec
    runner: Runner

    def answers(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """Runs the graph on prepared images, each uint8 [H,W,C].

        Returns:
            For each image its row of each output that the task has.

        Raises:
            ExportError: the graph fails, or gives something else than the contract says.
        """
        try:
            outputs = self.runner(np.stack(images))
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            raise ExportError(f"{self.folder}: the graph cannot be run: {explain(error)}.") from error
        needed = _NEEDED[self.manifest.task]
        if any(len(outputs[name]) != len(images) for name in needed):
            raise ExportError(f"{self.folder}: the graph does not give one answer an image; export it again.")
        return [{name: outputs[name][row] for name in needed} for row in range(len(images))]


def open_bundle(folder: Path) -> Side:
    """Opens a bundle whose manifest and hash hold.

    Raises:
        ExportError: it cannot be run on images alone.
        BundleError: it does not hold what it promises.
    """
    manifest = manifest_file.read(folder)
    manifest_file.check_hash(folder, manifest)
    if manifest.detect.max_regions:
        raise ExportError(f"{folder} takes regions with each image, which a folder of images does not give.")
    path = folder / manifest_file.MODEL_FILE
    try:
        opened = parity.session(path.read_bytes())
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise ExportError(f"{path} cannot be opened: {explain(error)}.") from error
    _check(path, manifest, opened)
    suppression = nms.Suppression(
        manifest.detect.max_detections, manifest.detect.min_score, manifest.detect.nms_iou_threshold
    )
    runner = parity.runner(opened, lambda images: nms.thresholds(suppression, len(images)))
    return Side(folder, manifest, manifest_file.input_spec(manifest), runner)


def _check(path: Path, manifest: pb.ModelManifest, opened: onnxruntime.InferenceSession) -> None:
    given = {value.name for value in opened.get_outputs()}
    missing = [name for name in _NEEDED[manifest.task] if name not in given]
    if missing:
        raise ExportError(f"{path} has no output `{missing[0]}`, which its task needs: export it again.")
    if "images" not in {value.name for value in opened.get_inputs()}:
        raise ExportError(f"{path} has no input `images`: export it again.")
