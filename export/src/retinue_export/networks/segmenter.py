"""A fully convolutional segmenter with skip connections and learned upsampling."""

import torch
from torch import Tensor, nn

from retinue_export.networks.blocks import ConvNorm, Residual, Stage


class Segmenter(nn.Module):
    """Down to stride 16, then transposed convolutions back to stride 1 that each take in the features passed by.

    The first convolution goes to stride 4 in one step: wide maps of few channels cost the most time.

    Source: J. Long, E. Shelhamer, T. Darrell, Fully Convolutional Networks for Semantic Segmentation,
    arXiv:1411.4038; O. Ronneberger et al., U-Net, arXiv:1505.04597 (skips by concatenation).
    """

    def __init__(self, classes: int = 11) -> None:
        super().__init__()
        self.stage_4 = nn.Sequential(ConvNorm(3, 64, 8, 4), Residual(64), Residual(64))
        self.stage_8 = Stage(64, 128, 2)
        self.stage_16 = Stage(128, 128, 1)
        self.up_8 = nn.ConvTranspose2d(128, 128, 2, stride=2)
        self.fuse_8 = ConvNorm(256, 128, 1)
        self.up_4 = nn.ConvTranspose2d(128, 64, 2, stride=2)
        self.fuse_4 = ConvNorm(128, 64)
        self.up_1 = nn.ConvTranspose2d(64, classes, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        """Scores the classes of each pixel.

        Args:
            images: float32 [N,3,H,W], `normalised` RGB, H and W multiples of 16.

        Returns:
            float32 [N,classes,H,W], logits.
        """
        at_4 = self.stage_4(images)
        at_8 = self.stage_8(at_4)
        at_16 = self.stage_16(at_8)
        at_8 = self.fuse_8(torch.cat([at_8, self.up_8(at_16)], dim=1))
        at_4 = self.fuse_4(torch.cat([at_4, self.up_4(at_8)], dim=1))
        logits: Tensor = self.up_1(at_4)
        return logits
