"""R-FCN: maps that know parts of objects, and regions that ask each map at the part's own place.

Source: J. Dai, Y. Li, K. He, J. Sun, R-FCN: Object Detection via Region-based Fully Convolutional Networks,
arXiv:1605.06409. The paper takes its regions from a region proposal network; here they are given with the image.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet101

from retinue_export.zoo.region_boxes import moved, scores

STRIDE = 16
PARTS = 7
"""Rows and columns of parts, the paper's k."""


class RFCN(nn.Module):
    """ResNet-101 at stride 16, maps that are sensitive to positions, and votes of an object's parts.

    Args:
        classes: how many kinds of objects there are, without the background; by default those of PASCAL VOC.
    """

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        # The last stage keeps the size, and its filters have holes instead.
        whole = resnet101(weights=None, replace_stride_with_dilation=[False, False, True])
        self.features = nn.Sequential(
            *(whole.conv1, whole.bn1, whole.relu, whole.maxpool),
            *(whole.layer1, whole.layer2, whole.layer3, whole.layer4),
            *(nn.Conv2d(2048, 1024, 1), nn.ReLU()),
        )
        self.classes = nn.Conv2d(1024, PARTS * PARTS * (1 + classes), 1)
        self.boxes = nn.Conv2d(1024, PARTS * PARTS * 4, 1)

    def forward(self, images: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Answers for each region.

        Args:
            images: float32 [N,3,H,W].
            regions: float32 [N,R,4], x1,y1,x2,y2 in input pixels; unused rows all 0.

        Returns:
            boxes: float32 [N,R,4], x1,y1,x2,y2 in input pixels, the same for all classes;
            scores: float32 [N,classes,R], in [0, 1].
        """
        features = self.features(images)
        logits = pool_by_position(self.classes(features), regions).mean(dim=(3, 4))
        deltas = pool_by_position(self.boxes(features), regions).mean(dim=(3, 4))
        return moved(deltas, regions), scores(logits, regions).transpose(1, 2)


def pool_by_position(maps: Tensor, regions: Tensor) -> Tensor:
    """Averages, in each part of each region, the map that belongs to this part.

    Equation 1 of the paper: torchvision.ops.ps_roi_pool, but for the last row and column of the map, which that leaves
    out. As sums over the rows and the columns of a part it is two products of matrices, for all regions at once.

    Args:
        maps: float32 [N,D*k*k,h,w], the k by k parts of each of D answers one after the other.
        regions: float32 [N,R,4], in input pixels.

    Returns:
        float32 [N,R,D,k,k].
    """
    height, width = maps.shape[2:]
    columns, rows = (
        _share_of_parts(regions[..., axis::2] / STRIDE, size) for axis, size in ((0, width), (1, height))
    )
    by_part = maps.reshape(-1, maps.shape[1] // PARTS**2, PARTS, PARTS, height, width)
    in_rows = rows.permute(0, 2, 1, 3).unsqueeze(2) @ by_part.permute(0, 2, 3, 4, 1, 5).flatten(4)
    in_rows = in_rows.reshape(-1, PARTS, PARTS, regions.shape[1], by_part.shape[1], width)
    pooled: Tensor = (in_rows * columns.permute(0, 2, 1, 3)[:, None, :, :, None]).sum(dim=5)
    return pooled.permute(0, 3, 4, 1, 2)


def _share_of_parts(spans: Tensor, size: int) -> Tensor:
    """What each row, or column, of a map counts in the average of each part of each region.

    Args:
        spans: float32 [N,R,2], from where to where regions reach, in places of the map.
        size: how many rows, or columns, the map has.

    Returns:
        float32 [N,R,k,size], of sum 1 for each part, or 0 where a part is outside of the map.
    """
    # Halves away from 0, as the original rounds; torch.round would take them to even numbers.
    start, end = (spans + 0.5).floor().unbind(dim=-1)
    length = (end - start).clamp(min=1).unsqueeze(-1)
    part = torch.arange(PARTS)
    first = start.unsqueeze(-1) + (part * length / PARTS).floor()
    past = start.unsqueeze(-1) + ((part + 1) * length / PARTS).ceil()
    place = torch.arange(size)
    inside = ((place >= first.unsqueeze(-1)) & (place < past.unsqueeze(-1))).float()
    return inside / inside.sum(dim=-1, keepdim=True).clamp(min=1)
