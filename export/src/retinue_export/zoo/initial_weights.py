"""Weights to begin with in deep networks without normalisation layers."""

from torch import nn


def he_initialised(network: nn.Module, slope: float = 0.0) -> None:
    """Draws all weights in place such that what an image says is as large behind many layers as in front of them.

    Source: K. He et al., Delving Deep into Rectifiers, arXiv:1502.01852, equation 15.

    Args:
        network: its convolutions and dense layers are followed by rectifiers.
        slope: of these, for negative values.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=slope)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
