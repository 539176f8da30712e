"""A tiny network, whose cost an image is next to nothing: what is measured of it is the server's own."""

import torch
from torch import nn


def build() -> nn.Module:
    """LeNet-5 on 28x28 grey images, untrained, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.Tanh()),
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )
