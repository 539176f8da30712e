"""Recipe of `fashion-segmenter`: 3,200 batches of generated scenes, none seen twice."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import fashion_mnist, inputs, quality
from retinue_export.assembly import Quality
from retinue_export.networks.blocks import normalised
from retinue_export.networks.segmenter import Segmenter
from retinue_export.packaging import segmenter
from retinue_export.parity import Runner
from retinue_export.recipes import scene_batches
from retinue_export.recipes.recipe import Recipe, source
from retinue_export.scenes import SceneSource
from retinue_export.training import Batch, Report, Schedule, fit, prefetched

BATCH = 32
STEPS = 3200
BACKGROUND_WEIGHT = 0.5
"""Background pixels are three of four, and easy."""
CLASSES = ("background", *fashion_mnist.CLASSES)


def train(report: Report, seed: int = 0, steps: int = STEPS) -> Segmenter:
    """Trains the segmenter on scenes of the training split.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(seed)
    network = Segmenter(len(CLASSES))
    schedule = Schedule(steps, learning_rate=3e-3, weight_decay=0.05, warmup_share=0.15, average_decay=0.998)
    trained = fit(network, prefetched(partial(_batches, seed + 1)), _loss, schedule, report)
    assert isinstance(trained, Segmenter)
    return trained


def _batches(seed: int) -> Iterator[Batch]:
    for images, scenes in scene_batches.batches(SceneSource("train"), BATCH, seed):
        yield torch.from_numpy(images), torch.from_numpy(np.stack([scene.class_map for scene in scenes]))


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    images, class_map = batch
    logits = network(normalised(images.permute(0, 3, 1, 2).float())).float()
    weights = torch.ones(logits.shape[1])
    weights[0] = BACKGROUND_WEIGHT
    return nn.functional.cross_entropy(logits, class_map.long(), weights)


def _quality() -> Quality:
    scenes = inputs.test_scenes(scene_batches.TEST_SCENES)

    def measure(runner: Runner) -> dict[str, float]:
        return {"mean_iou": quality.mean_iou(runner, scenes, scene_batches.SPEC, len(CLASSES))}

    return Quality("generated scenes of the test split", len(scenes), measure)


RECIPE = Recipe(
    manifest=pb.ModelManifest(
        name="fashion-segmenter",
        task=pb.TASK_SEGMENT,
        labels=CLASSES,
        segment=pb.SegmentOptions(
            map_height=scene_batches.INPUT_SIDE, map_width=scene_batches.INPUT_SIDE, background_class_id=0
        ),
        source=source(
            Segmenter, f"retinue-export train fashion-segmenter: {STEPS * BATCH} generated scenes, seed 0"
        ),
        description="Marks which pixels show which of ten kinds of clothing. Trained on scenes of Fashion-MNIST items.",
    ),
    network=Segmenter,
    train=train,
    packaging=segmenter(scene_batches.SPEC, scene_batches.NORMALISATION),
    parity_images=lambda: inputs.scene_images(scene_batches.PARITY_SCENES, scene_batches.SPEC),
    parity_inputs=f"the first {scene_batches.PARITY_SCENES} test scenes, prepared by the manifest's rule",
    quality=_quality,
)
