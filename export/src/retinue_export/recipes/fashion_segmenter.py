"""Recipe of `fashion-segmenter`: what the detector has learned, then 5,200 batches of crowded scenes.

The classifier teaches it, for the reason given in `fashion_detector`.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import fashion_mnist, inputs, quality
from retinue_export.assembly import Quality
from retinue_export.networks.blocks import normalised
from retinue_export.networks.detector import Detector
from retinue_export.networks.segmenter import Segmenter
from retinue_export.packaging import segmenter
from retinue_export.parity import Runner
from retinue_export.recipes import fashion_cnn, fashion_detector, scene_batches
from retinue_export.recipes.recipe import Recipe, source
from retinue_export.scenes import SceneSource
from retinue_export.segmentation_loss import lovasz_softmax
from retinue_export.training import Batch, Report, Schedule, fit

BATCH = 32
STEPS = 5200
INPUT_SIDE = 144
SPEC = scene_batches.spec(INPUT_SIDE)
CLASSES = ("background", *fashion_mnist.CLASSES)


def train(
    report: Report, detector: nn.Module, classifier: nn.Module, seed: int = 0, steps: int = STEPS
) -> Segmenter:
    """Trains the segmenter on scenes of the training split.

    Args:
        report: see there.
        detector: a trained `Detector`, which knows the items already.
        classifier: a trained `FashionCnn`, whose beliefs about the items are learned.
        seed: of the scenes, and of the weights that the detector does not have.
        steps: batches to learn from.

    Returns:
        The network in evaluation mode.
    """
    assert isinstance(detector, Detector)
    torch.manual_seed(seed)
    network = Segmenter(len(CLASSES))
    network.begin_with(detector)
    schedule = Schedule(
        steps, learning_rate=4e-3, hidden_learning_rate=0.015, warmup_share=0.1, average_decay=0.998
    )
    batches = _batches(seed + 1)  # other scenes than the detector's
    trained = fit(network, batches, partial(_loss, _targets(classifier)), schedule, report)
    assert isinstance(trained, Segmenter)
    return trained


def _batches(seed: int) -> Iterator[Batch]:
    """Gives images, uint8 [32,128,128,3], class maps, uint8 [32,128,128], and item maps, int32 likewise.

    They are of scenes, each mirrored next.
    """
    source = SceneSource("train", most_items=10, recolour=True)
    for pixels, scenes in scene_batches.batches(source, BATCH, scene_batches.SIDE, seed):
        images = torch.from_numpy(pixels)
        class_maps = torch.from_numpy(np.stack([scene.class_map for scene in scenes]))
        item_maps = torch.from_numpy(np.stack([scene.item_map for scene in scenes]))
        yield images, class_maps, item_maps
        yield images.flip(2), class_maps.flip(2), item_maps.flip(2)


def _targets(classifier: nn.Module) -> Tensor:
    """The probabilities to learn for a pixel of the background, then of each item: float32 [60001,11]."""
    beliefs = fashion_cnn.beliefs(classifier)
    targets = torch.zeros(1 + len(beliefs), len(CLASSES))
    targets[0, 0] = 1.0
    targets[1:, 1:] = beliefs
    return targets


def _loss(targets: Tensor, network: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of one pixel in each two by two, and the overlap of each class on one in nine of those.

    The others would say the same again, and the overlap sorts its pixels. The first is towards what the classifier
    believes, the second towards the labels, since quality is measured by their overlap.

    Args:
        targets: see `_targets`.
        network: a `Segmenter`.
        batch: see `_batches`.
    """
    assert isinstance(network, Segmenter)
    images, class_maps, item_maps = batch
    top, left = torch.randint(2, (2,)).tolist()
    logits = network.every_second(normalised(images.permute(0, 3, 1, 2).float()), top, left).float()
    wanted = targets[item_maps[:, top::2, left::2].long()].permute(0, 3, 1, 2)
    some = logits[:, :, ::3, ::3].permute(0, 2, 3, 1).flatten(0, 2).softmax(dim=1)
    overlap = lovasz_softmax(some, class_maps[:, top::6, left::6].long().flatten())
    return nn.functional.cross_entropy(logits, wanted) + overlap


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
        segment=pb.SegmentOptions(map_height=2 * INPUT_SIDE, map_width=2 * INPUT_SIDE, background_class_id=0),
        source=source(
            Segmenter,
            f"retinue-export train fashion-segmenter: {STEPS * BATCH // 2} generated scenes and their mirror images, "
            "seed 0, begun with the weights of fashion-detector, taught by fashion-cnn",
        ),
        description="Marks which pixels show which of ten kinds of clothing. Trained on scenes of Fashion-MNIST items.",
    ),
    network=Segmenter,
    train=train,
    packaging=segmenter(SPEC, scene_batches.NORMALISATION),
    parity_images=lambda: inputs.scene_images(scene_batches.PARITY_SCENES, SPEC),
    parity_inputs=f"the first {scene_batches.PARITY_SCENES} test scenes, prepared by the manifest's rule",
    quality=_quality,
    learns_from=(fashion_detector.RECIPE, fashion_cnn.RECIPE),
)
