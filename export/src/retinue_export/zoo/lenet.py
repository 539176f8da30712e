"""LeNet-5.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document Recognition, Proceedings
of the IEEE 86 (1998), section II.B.
"""

import torch
from torch import Tensor, nn

SIDE = 32
_BITMAP = 7 * 12
"""Cells of a character's picture, which the last hidden layer is compared with."""
# Table I: which maps of S2 each map of C3 sees.
_SEEN = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class Squash(nn.Module):
    """The paper's sigmoid: 1.7159 tanh(2x/3)."""

    def forward(self, values: Tensor) -> Tensor:
        """Maps each value to (-1.7159, 1.7159)."""
        return 1.7159 * torch.tanh(values * (2 / 3))


class Subsampling(nn.Module):
    """Means of two by two places, each map with a coefficient and a bias of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Halves height and width of [N,C,H,W]."""
        scaled: Tensor = self.pool(maps) * self.weight + self.bias
        return scaled


class PartialConvolution(nn.Conv2d):
    """A convolution each of whose maps sees only some of the maps before."""

    def __init__(self, inputs: int, seen: tuple[tuple[int, ...], ...], size: int) -> None:
        super().__init__(inputs, len(seen), size)
        mask = torch.zeros(len(seen), inputs, 1, 1)
        for row, columns in enumerate(seen):
            mask[row, list(columns)] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """Convolves [N,C,H,W] without padding."""
        return nn.functional.conv2d(maps, self.weight * self.mask, self.bias)


class RadialBasis(nn.Module):
    """How far from each class's picture, of -1 and 1, the hidden layer is."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.randint(2, (classes, inputs)) * 2.0 - 1, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Gives logits [N,classes]: the squared distances, negated, since the nearest picture is the answer."""
        return -(hidden.unsqueeze(1) - self.pictures).square().sum(dim=2)


class LeNet5(nn.Module):
    """Tells handwritten characters; takes grey images of 32 by 32, returns logits."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 6, 5), Squash(), Subsampling(6), Squash()),
            *(PartialConvolution(6, _SEEN, 5), Squash(), Subsampling(16), Squash()),
            *(nn.Conv2d(16, 120, 5), Squash(), nn.Flatten()),
            *(nn.Linear(120, _BITMAP), Squash(), RadialBasis(_BITMAP, classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 [N,1,32,32] to logits [N,classes]."""
        logits: Tensor = self.layers(images)
        return logits
