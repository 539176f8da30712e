"""A fully convolutional segmenter with skip connections and learned upsampling."""

import torch
from torch import Tensor, nn

from retinue_export.networks.blocks import Backbone, ConvNorm, Residual


class Segmenter(nn.Module):
    """Backbone to stride 16, then transposed convolutions back to stride 1 that each take in the features passed by.

    Source: J. Long, E. Shelhamer, T. Darrell, Fully Convolutional Networks for Semantic Segmentation,
    arXiv:1411.4038; O. Ronneberger et al., U-Net, arXiv:1505.04597 (skips by concatenation).
    """

    def __init__(self, classes: int = 11) -> None:
        super().__init__()
        self.backbone = Backbone((24, 48, 96, 128), (1, 2, 2))
        self.up_8 = nn.ConvTranspose2d(128, 96, 2, stride=2)
        self.fuse_8 = nn.Sequential(ConvNorm(192, 96, 1), Residual(96))
        self.up_4 = nn.ConvTranspose2d(96, 48, 2, stride=2)
        self.fuse_4 = ConvNorm(96, 48)
        self.up_2 = nn.ConvTranspose2d(48, 24, 2, stride=2)
        self.fuse_2 = ConvNorm(48, 32)
        self.up_1 = nn.ConvTranspose2d(32, classes, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Scores the classes of each pixel.

        Args:
            images: float32 [N,3,H,W], `normalised` RGB, H and W multiples of 16.

        Returns:
            float32 [N,classes,H,W], logits.
        """
        at_2, at_4, at_8, at_16 = self.backbone(images)
        features = self.fuse_8(torch.cat([at_8, self.up_8(at_16)], dim=1))
        features = self.fuse_4(torch.cat([at_4, self.up_4(features)], dim=1))
        features = self.fuse_2(torch.cat([at_2, self.up_2(features)], dim=1))
        logits: Tensor = self.up_1(features)
        return logits
