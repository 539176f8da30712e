"""Recipe of `fashion-cnn`: Fashion-MNIST, mirrored and shifted, 11 passes."""

from collections.abc import Iterator
from functools import cache

import torch
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import fashion_mnist, inputs, quality
from retinue_export.assembly import Quality
from retinue_export.networks.cnn import FashionCnn, shift_and_flip
from retinue_export.packaging import Normalisation, classifier
from retinue_export.parity import Runner
from retinue_export.recipes.recipe import Recipe, source
from retinue_export.training import Batch, Report, Schedule, fit
from retinue_server.vision.spec import InputSpec, ResizeMode

MEAN = 0.2860
"""Mean of the training images, grey levels in [0, 1]."""
DEVIATION = 0.3530
"""Standard deviation of the same."""
BATCH = 128
PASSES = 11
PARITY_IMAGES = 256
SPEC = InputSpec(
    height=28,
    width=28,
    grey=True,
    resize_mode=ResizeMode.STRETCH,
    resample=Image.Resampling.BILINEAR,
)


def train(report: Report, seed: int = 0, passes: int = PASSES) -> FashionCnn:
    """Trains the classifier on the training split.

    Returns:
        The network in evaluation mode; it takes `standardise`d images.
    """
    torch.manual_seed(seed)
    data = fashion_mnist.load("train")
    network = FashionCnn(len(fashion_mnist.CLASSES))
    schedule = Schedule(
        steps=passes * (len(data.labels) // BATCH),
        learning_rate=1e-3,
        weight_decay=0.02,
        average_decay=0.998,
    )
    trained = fit(network, _batches(data, seed), _loss, schedule, report)
    assert isinstance(trained, FashionCnn)
    return trained


def standardise(images: Tensor) -> Tensor:
    """Brings grey levels, uint8 or float in [0, 255], to mean 0 and deviation 1 of the training images."""
    return (images.float() / 255 - MEAN) / DEVIATION


@cache
@torch.no_grad()
def beliefs(network: nn.Module) -> Tensor:
    """Asks a classifier, once, for the class of each training item.

    Args:
        network: a trained one in evaluation mode, whose weights do not change any more.

    Returns:
        Probabilities, float32 [60000,10], shared by all callers.
    """
    assert not network.training
    images = torch.from_numpy(fashion_mnist.load("train").images.copy()).unsqueeze(1)
    return torch.cat([network(standardise(some)).softmax(dim=1) for some in torch.split(images, BATCH)])


def _batches(data: fashion_mnist.FashionMnist, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(data.images.copy()).unsqueeze(1)
    labels = torch.from_numpy(data.labels)
    while True:
        order = torch.randperm(len(labels), generator=generator)
        for picked in order[: len(order) // BATCH * BATCH].view(-1, BATCH):
            pixels = standardise(shift_and_flip(images[picked], generator, reach=1))
            yield pixels.contiguous(memory_format=torch.channels_last), labels[picked]


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(network(images).float(), labels, label_smoothing=0.02)


def _quality() -> Quality:
    labels = fashion_mnist.load("test").labels
    images = inputs.fashion_images(len(labels), SPEC)

    def measure(runner: Runner) -> dict[str, float]:
        return {"top1_accuracy": quality.top1_accuracy(runner, images, labels)}

    return Quality("Fashion-MNIST test split", len(labels), measure)


RECIPE = Recipe(
    manifest=pb.ModelManifest(
        name="fashion-cnn",
        task=pb.TASK_CLASSIFY,
        labels=fashion_mnist.CLASSES,
        source=source(
            FashionCnn, f"retinue-export train fashion-cnn: {PASSES} passes over Fashion-MNIST, seed 0"
        ),
        description="Tells which of ten kinds of clothing a picture shows, bright on black as in Fashion-MNIST.",
    ),
    network=FashionCnn,
    train=train,
    packaging=classifier(SPEC, Normalisation((MEAN,), (DEVIATION,))),
    parity_images=lambda: inputs.fashion_images(PARITY_IMAGES, SPEC),
    parity_inputs=f"the first {PARITY_IMAGES} images of Fashion-MNIST's test split",
    quality=_quality,
)
