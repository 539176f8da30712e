"""A fully convolutional segmenter with skip connections and learned upsampling."""

import torch
from torch import Tensor, nn

from retinue_export.networks.blocks import ConvNorm, Trunk
from retinue_export.networks.detector import Detector


class Segmenter(Trunk):
    """The detector's trunk and class branch, then transposed convolutions to stride 1 that take in what passed by.

    Source: J. Long, E. Shelhamer, T. Darrell, Fully Convolutional Networks for Semantic Segmentation,
    arXiv:1411.4038; O. Ronneberger et al., U-Net, arXiv:1505.04597 (skips by concatenation).
    """

    def __init__(self, classes: int = 11) -> None:
        super().__init__()
        width = self.channels
        self.class_branch = nn.Sequential(ConvNorm(width, width), ConvNorm(width, width))
        self.up_4 = nn.ConvTranspose2d(width, 64, 2, stride=2)
        self.fuse_4 = ConvNorm(64 + self.fine_channels, 64)
        self.up_1 = nn.ConvTranspose2d(64, classes, 4, stride=4)

    def begin_with(self, detector: Detector) -> None:
        """Takes over what a detector has learned of how things look; what is left to learn is where they end."""
        for mine, learned in (
            (self.backbone, detector.backbone),
            (self.upsample, detector.upsample),
            (self.fuse, detector.fuse),
            (self.class_branch, detector.class_branch[: len(self.class_branch)]),
        ):
            mine.load_state_dict(learned.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """Scores the classes of each pixel.

        Args:
            images: float32 [N,3,H,W], `normalised` RGB, H and W multiples of 16.

        Returns:
            float32 [N,classes,H,W], logits.
        """
        at_4, at_8 = self.features(images)
        at_4 = self.fuse_4(torch.cat([at_4, self.up_4(self.class_branch(at_8))], dim=1))
        logits: Tensor = self.up_1(at_4)
        return logits
