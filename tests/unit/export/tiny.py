"""A network small enough to export in a unit test."""

import numpy as np
import torch
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export.assembly import Candidate, Quality
from retinue_export.packaging import Normalisation, classifier
from retinue_server.vision.spec import InputSpec, ResizeMode

SPEC = InputSpec(
    height=8, width=6, grey=False, resize_mode=ResizeMode.STRETCH, resample=Image.Resampling.BILINEAR
)
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def network(seed: int = 0) -> nn.Sequential:
    """Convolution, batch normalisation that does something, pooling, three classes."""
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    norm = made[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return made.eval()


def images(count: int) -> np.ndarray:
    """Noise: uint8 [count,8,6,3]."""
    return np.random.default_rng(1).integers(0, 256, (count, 8, 6, 3), np.uint8)


def candidate(quality: Quality | None = None) -> Candidate:
    """A classifier ready to be bundled as `tiny`."""
    return Candidate(
        manifest=pb.ModelManifest(
            name="tiny",
            task=pb.TASK_CLASSIFY,
            labels=["a", "b", "c"],
            source=pb.Source(architecture="tests.tiny.network"),
        ),
        network=network(),
        packaging=classifier(SPEC, NORMALISATION),
        parity_images=lambda: images(9),
        parity_inputs="noise",
        quality=quality,
    )
