"""What networks that look at given regions have in common: how regions become boxes, and what they may answer.

Regions are float32 [N,R,4]: x1,y1,x2,y2 in input pixels; rows that are not used are all 0.
"""

import math

import torch
from torch import Tensor

_LARGEST_GROWTH = math.log(1000 / 16)
"""Of a side's logarithm, so that no box is infinite; as in torchvision's detectors."""


def rois(regions: Tensor) -> Tensor:
    """Regions of a batch in one list, as pooling takes them: float32 [N*R,5], the image's number first."""
    numbers = torch.arange(regions.shape[0], dtype=regions.dtype).view(-1, 1, 1)
    return torch.cat([numbers.expand(-1, regions.shape[1], 1), regions], dim=2).reshape(-1, 5)


def moved(deltas: Tensor, regions: Tensor) -> Tensor:
    """Moves and stretches regions by what a network says of them.

    Source: R. Girshick et al., arXiv:1311.2524, appendix C, equations 1 to 4.

    Args:
        deltas: float32 [...,4]: how far the middle moves, in widths and heights of the region, and the logarithms of
            how much wider and higher it becomes.
        regions: float32 [...,4].

    Returns:
        Boxes, float32 [...,4], x1,y1,x2,y2.
    """
    sides = regions[..., 2:] - regions[..., :2]
    middles = regions[..., :2] + sides / 2 + deltas[..., :2] * sides
    reach = deltas[..., 2:].clamp(max=_LARGEST_GROWTH).exp() * sides / 2
    return torch.cat([middles - reach, middles + reach], dim=-1)


def scores(logits: Tensor, regions: Tensor) -> Tensor:
    """How likely each region shows each class.

    Args:
        logits: float32 [N,R,1+K], the background's first.
        regions: float32 [N,R,4].

    Returns:
        float32 [N,R,K], in [0, 1]; 0 in rows that are not used.
    """
    used = (regions[..., 2:] > regions[..., :2]).all(dim=-1, keepdim=True)
    return torch.where(used, logits.softmax(dim=-1)[..., 1:], 0.0)


def of_own_class(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Brings boxes that each class has of its own to the form of boxes that all classes share.

    Args:
        boxes: float32 [N,R,K,4].
        scores: float32 [N,R,K].

    Returns:
        boxes: float32 [N,R*K,4];
        scores: float32 [N,K,R*K], 0 but for a box's own class.
    """
    classes = scores.shape[2]
    own = torch.eye(classes, dtype=torch.bool).unsqueeze(1)
    spread = torch.where(own, scores.unsqueeze(1), 0.0)
    return boxes.flatten(1, 2), spread.flatten(2)
