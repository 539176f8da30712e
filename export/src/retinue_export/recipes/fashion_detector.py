"""Recipe of `fashion-detector`: 2,800 batches of generated scenes, none seen twice."""

from collections.abc import Iterator

import numpy as np
import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import fashion_mnist, inputs, quality
from retinue_export.assembly import Quality
from retinue_export.detection_loss import detection_loss
from retinue_export.networks.blocks import normalised
from retinue_export.networks.detector import STRIDE, Detector, cell_centres
from retinue_export.nms import Suppression
from retinue_export.packaging import DetectorPackaging
from retinue_export.parity import Runner
from retinue_export.recipes import scene_batches
from retinue_export.recipes.recipe import Recipe, source
from retinue_export.scenes import Scene, SceneSource
from retinue_export.training import Batch, Report, Schedule, fit

BATCH = 32
STEPS = 2800
INPUT_SIDE = 160
SPEC = scene_batches.spec(INPUT_SIDE)
SUPPRESSION = Suppression(max_detections=50, min_score=0.02, iou_threshold=0.6)
SCORE_THRESHOLD = 0.4


def train(report: Report, seed: int = 0, steps: int = STEPS) -> Detector:
    """Trains the detector on scenes of the training split.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(seed)
    network = Detector(len(fashion_mnist.CLASSES))
    schedule = Schedule(
        steps, learning_rate=3e-3, hidden_learning_rate=0.02, warmup_share=0.15, average_decay=0.998
    )
    trained = fit(network, _batches(seed), _loss, schedule, report)
    assert isinstance(trained, Detector)
    return trained


def _batches(seed: int) -> Iterator[Batch]:
    for images, scenes in scene_batches.batches(SceneSource("train"), BATCH, scene_batches.SIDE, seed):
        yield torch.from_numpy(images), *padded_targets(scenes)


def padded_targets(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Stacks boxes, float32 [N,G,4], and classes, int64 [N,G], of scenes with up to G items; the rest has class -1."""
    most = max(1, *(len(scene.classes) for scene in scenes))
    boxes = np.zeros((len(scenes), most, 4), np.float32)
    classes = np.full((len(scenes), most), -1, np.int64)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.classes)] = scene.boxes
        classes[row, : len(scene.classes)] = scene.classes
    return torch.from_numpy(boxes), torch.from_numpy(classes)


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    images, boxes, classes = batch
    predicted, logits = network(normalised(images.permute(0, 3, 1, 2).float()))
    centres = cell_centres(images.shape[1] // STRIDE, images.shape[2] // STRIDE)
    with torch.autocast("cpu", enabled=False):
        return detection_loss(predicted, logits, centres, boxes, classes)


def _quality() -> Quality:
    scenes = inputs.test_scenes(scene_batches.TEST_SCENES)

    def measure(runner: Runner) -> dict[str, float]:
        return quality.average_precision(runner, scenes, SPEC, fashion_mnist.CLASSES)

    return Quality("generated scenes of the test split", len(scenes), measure)


RECIPE = Recipe(
    manifest=pb.ModelManifest(
        name="fashion-detector",
        task=pb.TASK_DETECT,
        labels=fashion_mnist.CLASSES,
        detect=pb.DetectOptions(
            max_detections=SUPPRESSION.max_detections,
            min_score=SUPPRESSION.min_score,
            nms_iou_threshold=SUPPRESSION.iou_threshold,
            default_score_threshold=SCORE_THRESHOLD,
        ),
        source=source(
            Detector, f"retinue-export train fashion-detector: {STEPS * BATCH} generated scenes, seed 0"
        ),
        description="Finds ten kinds of clothing in a picture. Trained on scenes of Fashion-MNIST items on photos.",
    ),
    network=Detector,
    train=train,
    packaging=DetectorPackaging(SPEC, scene_batches.NORMALISATION, SUPPRESSION),
    parity_images=lambda: inputs.scene_images(scene_batches.PARITY_SCENES, SPEC),
    parity_inputs=f"the first {scene_batches.PARITY_SCENES} test scenes, prepared by the manifest's rule",
    quality=_quality,
)
