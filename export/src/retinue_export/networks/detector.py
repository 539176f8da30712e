"""A single-shot, anchor-free detector of the YOLO family with one output map at stride 8."""

import torch
from torch import Tensor, nn

from retinue_export.networks.blocks import ConvNorm, Trunk

STRIDE = 8
"""Pixels between neighbouring cells of the output map."""


class Detector(Trunk):
    """A trunk to stride 8 and a head that predicts one box a cell.

    Source: Z. Ge et al., YOLOX, arXiv:2107.08430 (anchor-free, decoupled head); C. Feng et al., TOOD,
    arXiv:2108.07755 (how cells are assigned to objects, see `detection_loss`).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        width = self.channels
        self.class_branch = nn.Sequential(
            ConvNorm(width, width), ConvNorm(width, width), nn.Conv2d(width, classes, 1)
        )
        self.box_branch = nn.Sequential(ConvNorm(width, 64), nn.Conv2d(64, 4, 1))
        _set_bias(self.class_branch, -4.6)  # a prior score of 0.01, as most cells are background
        _set_bias(self.box_branch, 1.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts one box a cell.

        Args:
            images: float32 [N,3,H,W], `normalised` RGB, H and W multiples of 16.

        Returns:
            boxes: float32 [N,cells,4], x1,y1,x2,y2 in input pixels, cells row by row;
            logits: float32 [N,cells,classes].
        """
        _, _, fused = self.features(images)
        logits = self.class_branch(fused).flatten(2).transpose(1, 2).float()
        distances = self.box_branch(fused).float()
        height, width = images.shape[2] // STRIDE, images.shape[3] // STRIDE
        centres = cell_centres(height, width)
        reach = torch.exp(distances.clamp(max=5.0)).flatten(2).transpose(1, 2) * STRIDE
        boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        return boxes, logits


def _set_bias(branch: nn.Sequential, value: float) -> None:
    last = branch[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, value)


def cell_centres(height: int, width: int) -> Tensor:
    """Centres of the output map's cells: float32 [height*width,2], x,y in input pixels, row by row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5) * STRIDE
