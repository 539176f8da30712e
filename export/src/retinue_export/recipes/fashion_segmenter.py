"""Recipe of `fashion-segmenter`: single items side by side first, then crowded scenes, each seen in two ways."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
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
from retinue_export.scenes import CELL, SceneSource
from retinue_export.training import Batch, Report, Schedule, fit, prefetched

Uint8 = NDArray[np.uint8]
BATCH = 16
SHEET_STEPS = 3000
SCENE_STEPS = 9000
TRAINING_SIDE = 128
INPUT_SIDE = 144
"""Larger than in training, since the items of a photo that is not square become smaller when it is fitted in. Of 128,
144, 160 and 176 this gave the best mean IoU."""
SPEC = scene_batches.spec(INPUT_SIDE)
BACKGROUND_WEIGHT = 0.5
"""Most pixels are background, and easy."""
CLASSES = ("background", *fashion_mnist.CLASSES)


def train(report: Report, seed: int = 0) -> Segmenter:
    """Trains the segmenter on sheets and then on scenes of the training split.

    What the items look like is learned from sheets, at a fourth of what it would cost in scenes.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(seed)
    network: nn.Module = Segmenter(len(CLASSES))
    for make, steps in ((_sheets, SHEET_STEPS), (_scenes, SCENE_STEPS)):
        schedule = Schedule(
            steps, learning_rate=4e-3, weight_decay=0.05, warmup_share=0.15, average_decay=0.998
        )
        batches = prefetched(partial(_two_ways, partial(make, seed)))
        network = fit(network, batches, _loss, schedule, report)
    assert isinstance(network, Segmenter)
    return network


def _sheets(seed: int) -> Iterator[tuple[Uint8, Uint8]]:
    source = SceneSource("train", recolour=True)
    random = np.random.default_rng(seed)
    rows = TRAINING_SIDE // CELL
    while True:
        sheets = [source.sheet(rows, rows, random) for _ in range(BATCH)]
        yield np.stack([image for image, _ in sheets]), np.stack([class_map for _, class_map in sheets])


def _scenes(seed: int) -> Iterator[tuple[Uint8, Uint8]]:
    source = SceneSource("train", fewest_items=4, most_items=12, recolour=True)
    for images, scenes in scene_batches.batches(source, BATCH, TRAINING_SIDE, seed):
        yield images, np.stack([scene.class_map for scene in scenes])


def _two_ways(make: Callable[[], Iterator[tuple[Uint8, Uint8]]]) -> Iterator[Batch]:
    """Gives each batch as it is, and mirrored with red and blue swapped: making it costs half as much as learning."""
    for images, class_maps in make():
        yield torch.from_numpy(images), torch.from_numpy(class_maps)
        yield (
            torch.from_numpy(images[:, :, ::-1, ::-1].copy()),
            torch.from_numpy(class_maps[:, :, ::-1].copy()),
        )


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of one pixel in each two by two: its neighbours would say the same again."""
    images, class_maps = batch
    top, left = torch.randint(2, (2,)).tolist()
    logits = network(normalised(images.permute(0, 3, 1, 2).float()))[:, :, top::2, left::2].float()
    weights = torch.ones(logits.shape[1])
    weights[0] = BACKGROUND_WEIGHT
    return nn.functional.cross_entropy(logits, class_maps[:, top::2, left::2].long(), weights)


def _quality() -> Quality:
    scenes = inputs.test_scenes(scene_batches.TEST_SCENES)

    def measure(runner: Runner) -> dict[str, float]:
        return {"mean_iou": quality.mean_iou(runner, scenes, SPEC, len(CLASSES))}

    return Quality("generated scenes of the test split", len(scenes), measure)


RECIPE = Recipe(
    manifest=pb.ModelManifest(
        name="fashion-segmenter",
        task=pb.TASK_SEGMENT,
        labels=CLASSES,
        segment=pb.SegmentOptions(map_height=INPUT_SIDE, map_width=INPUT_SIDE, background_class_id=0),
        source=source(
            Segmenter,
            f"retinue-export train fashion-segmenter: {SCENE_STEPS * BATCH // 2} generated scenes, seed 0",
        ),
        description="Marks which pixels show which of ten kinds of clothing. Trained on scenes of Fashion-MNIST items.",
    ),
    network=Segmenter,
    train=train,
    packaging=segmenter(SPEC, scene_batches.NORMALISATION),
    parity_images=lambda: inputs.scene_images(scene_batches.PARITY_SCENES, SPEC),
    parity_inputs=f"the first {scene_batches.PARITY_SCENES} test scenes, prepared by the manifest's rule",
    quality=_quality,
)
