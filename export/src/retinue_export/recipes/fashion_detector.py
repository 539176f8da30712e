"""Recipe of `fashion-detector`: 2,000 batches of generated scenes, none seen twice, taught by the classifier.

Fashion-MNIST's shirts, coats and pullovers look so alike that the classifier itself is in doubt. What it believes of an
item, seen alone and clean, is learned instead of one certain class; the segmenter gains 0.009 of mean IoU by it in 700
batches. A detection's score is its likeliest class's share of the belief, so doubtful items score lower.

Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
"""

from collections.abc import Iterator

import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import fashion_mnist, inputs, quality
from retinue_export.assembly import Quality
from retinue_export.detection_loss import detection_loss
from retinue_export.graph import DetectingByLogits
from retinue_export.networks.blocks import normalised
from retinue_export.networks.detector import STRIDE, Detector, cell_centres
from retinue_export.nms import Suppression
from retinue_export.packaging import DetectorPackaging
from retinue_export.parity import Runner
from retinue_export.recipes import fashion_cnn, scene_batches
from retinue_export.recipes.recipe import Recipe, source
from retinue_export.scenes import Scene, SceneSource
from retinue_export.training import Batch, Report, Schedule, fit

BATCH = 32
STEPS = 2000
INPUT_SIDE = 160
SPEC = scene_batches.spec(INPUT_SIDE)
SUPPRESSION = Suppression(max_detections=50, min_score=0.02, iou_threshold=0.6)
SCORE_THRESHOLD = 0.35
"""Where as many of the detections are right as items are found (0.84 of both, on scenes of training items)."""


def train(report: Report, classifier: nn.Module, seed: int = 0, steps: int = STEPS) -> Detector:
    """Trains the detector on scenes of the training split.

    Args:
        report: see there.
        classifier: a trained `FashionCnn`, whose beliefs about the items are learned.
        seed: of the scenes and of the first weights.
        steps: batches to learn from.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(seed)
    network = Detector(len(fashion_mnist.CLASSES))
    schedule = Schedule(
        steps, learning_rate=3e-3, hidden_learning_rate=0.02, warmup_share=0.15, average_decay=0.998
    )
    trained = fit(network, _batches(fashion_cnn.beliefs(classifier), seed), _loss, schedule, report)
    assert isinstance(trained, Detector)
    return trained


def _batches(beliefs: Tensor, seed: int) -> Iterator[Batch]:
    for images, scenes in scene_batches.batches(SceneSource("train"), BATCH, scene_batches.SIDE, seed):
        yield torch.from_numpy(images), *padded_targets(scenes, beliefs)


def padded_targets(scenes: list[Scene], beliefs: Tensor) -> tuple[Tensor, Tensor]:
    """Stacks boxes, float32 [N,G,4], and beliefs, float32 [N,G,C], of scenes with up to G items; the rest is 0.

    Args:
        scenes: N of them.
        beliefs: float32 [items,C], of all items of their split.
    """
    most = max(1, *(len(scene.items) for scene in scenes))
    boxes = torch.zeros(len(scenes), most, 4)
    believed = torch.zeros(len(scenes), most, beliefs.shape[1])
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.items)] = torch.from_numpy(scene.boxes)
        believed[row, : len(scene.items)] = beliefs[scene.items]
    return boxes, believed


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    images, boxes, beliefs = batch
    predicted, logits = network(normalised(images.permute(0, 3, 1, 2).float()))
    centres = cell_centres(images.shape[1] // STRIDE, images.shape[2] // STRIDE)
    with torch.autocast("cpu", enabled=False):
        return detection_loss(predicted, logits, centres, boxes, beliefs)


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
            default_score_threshold=SCORE_THRESHOLD,
        ),
        source=source(
            Detector,
            f"retinue-export train fashion-detector: {STEPS * BATCH} generated scenes, seed 0, taught by fashion-cnn",
        ),
        description="Finds ten kinds of clothing in a picture. Trained on scenes of Fashion-MNIST items on photos.",
    ),
    network=Detector,
    train=train,
    packaging=DetectorPackaging(SPEC, scene_batches.NORMALISATION, SUPPRESSION, DetectingByLogits),
    parity_images=lambda: inputs.scene_images(scene_batches.PARITY_SCENES, SPEC),
    parity_inputs=f"the first {scene_batches.PARITY_SCENES} test scenes, prepared by the manifest's rule",
    quality=_quality,
    learns_from=(fashion_cnn.RECIPE,),
)
