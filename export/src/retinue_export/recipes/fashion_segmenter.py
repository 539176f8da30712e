"""Recipe of `fashion-segmenter`: single items side by side first, then crowded scenes, small ones before large ones."""

from collections.abc import Iterator
from itertools import chain, islice

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
from retinue_export.training import Batch, Report, Schedule, fit

BATCH = 16
SHEET_STEPS = 3000
SHEET_ROWS = 4
SMALL_STEPS = 11000
SMALL_SIDE = 96
LARGE_STEPS = 4000
LARGE_SIDE = 128
STEPS = SHEET_STEPS + SMALL_STEPS + LARGE_STEPS
INPUT_SIDE = 144
"""Larger than in training, since the items of a photo that is not square become smaller when it is fitted in. Of 128,
144, 160 and 176 this gave the best mean IoU."""
SPEC = scene_batches.spec(INPUT_SIDE)
CLASSES = ("background", *fashion_mnist.CLASSES)


def train(report: Report, seed: int = 0) -> Segmenter:
    """Trains the segmenter on sheets and then on scenes of the training split.

    What the items look like is learned from sheets, at a fourth of what it would cost in scenes.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(seed)
    schedule = Schedule(
        STEPS, learning_rate=8e-3, hidden_learning_rate=0.03, warmup_share=0.1, average_decay=0.998
    )
    trained = fit(Segmenter(len(CLASSES)), _batches(seed), _loss, schedule, report)
    assert isinstance(trained, Segmenter)
    return trained


def _batches(seed: int) -> Iterator[Batch]:
    """Gives images, uint8 [16,side,side,3], with class maps, uint8 [16,side,side]."""
    source = SceneSource("train", most_items=10, recolour=True)
    return chain(
        islice(_sheets(source, seed), SHEET_STEPS),
        islice(_scenes(source, SMALL_SIDE, seed), SMALL_STEPS),
        _scenes(source, LARGE_SIDE, seed + 1),
    )


def _sheets(source: SceneSource, seed: int) -> Iterator[Batch]:
    random = np.random.default_rng(seed)
    while True:
        sheets = [source.sheet(SHEET_ROWS, SHEET_ROWS, random) for _ in range(BATCH)]
        images, class_maps = zip(*sheets, strict=True)
        yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(class_maps))


def _scenes(source: SceneSource, side: int, seed: int) -> Iterator[Batch]:
    for images, scenes in scene_batches.batches(source, BATCH, side, seed):
        class_maps = np.stack([scene.class_map for scene in scenes])
        yield torch.from_numpy(images), torch.from_numpy(class_maps)


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of one pixel in each two by two: its neighbours would say the same again."""
    images, class_maps = batch
    top, left = torch.randint(2, (2,)).tolist()
    logits = network(normalised(images.permute(0, 3, 1, 2).float()))[:, :, top::2, left::2].float()
    return nn.functional.cross_entropy(logits, class_maps[:, top::2, left::2].long())


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
            f"retinue-export train fashion-segmenter: {SHEET_STEPS * BATCH} sheets of items and "
            f"{(SMALL_STEPS + LARGE_STEPS) * BATCH} generated scenes, seed 0",
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
