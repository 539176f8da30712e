"""What the detector learns from: which cell answers for which object, and how wrong its answer is.

Source: C. Feng et al., TOOD: Task-aligned One-stage Object Detection, arXiv:2108.07755 (assignment and targets);
H. Rezatofighi et al., Generalized Intersection over Union, arXiv:1902.09630 (box loss).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

CELLS_PER_OBJECT = 9
_SCORE_POWER = 1.0
_OVERLAP_POWER = 6.0
_BOX_WEIGHT = 2.5


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which cell answers for which object.

    Attributes:
        positive: bool [N,A], whether the cell answers for an object.
        target_boxes: float32 [N,A,4], that object's box.
        target_scores: float32 [N,A,C], the score to predict; 0 for cells without object.
    """

    positive: Tensor
    target_boxes: Tensor
    target_scores: Tensor


def detection_loss(
    predicted: Tensor, logits: Tensor, centres: Tensor, boxes: Tensor, beliefs: Tensor
) -> Tensor:
    """Computes the scalar to minimise.

    Args:
        predicted: float32 [N,A,4], a box a cell, x1,y1,x2,y2 in input pixels.
        logits: float32 [N,A,C].
        centres: float32 [A,2], centres of the cells, x,y in input pixels.
        boxes: float32 [N,G,4], boxes of the objects, padded to the largest number in the batch.
        beliefs: float32 [N,G,C], how likely each object is of each class, nothing but 0 in the padding.
    """
    assignment = assign(predicted.detach(), logits.detach().sigmoid(), centres, boxes, beliefs)
    weights = assignment.target_scores.sum(-1)
    total = weights.sum().clamp(min=1.0)
    score_loss = binary_cross_entropy_with_logits(logits, assignment.target_scores, reduction="sum")
    positive = assignment.positive
    overlap = _generalised_iou(predicted[positive], assignment.target_boxes[positive])
    box_loss = ((1 - overlap) * weights[positive]).sum()
    return (score_loss + _BOX_WEIGHT * box_loss) / total


@torch.no_grad()
def assign(predicted: Tensor, scores: Tensor, centres: Tensor, boxes: Tensor, beliefs: Tensor) -> Assignment:
    """Gives each object the cells inside it whose score and box fit it best; arguments as in `detection_loss`."""
    real = beliefs.any(dim=-1)
    overlaps = _pairwise_iou(boxes, predicted)
    alignment = (beliefs @ scores.transpose(1, 2)) ** _SCORE_POWER * overlaps**_OVERLAP_POWER
    x, y = centres.unbind(-1)
    x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(-1)
    candidates = (x > x1) & (x < x2) & (y > y1) & (y < y2) & real.unsqueeze(-1)
    alignment = alignment * candidates
    chosen = torch.zeros_like(candidates)
    chosen.scatter_(2, (alignment + 1e-9 * candidates).topk(CELLS_PER_OBJECT, dim=2).indices, True)
    chosen &= candidates
    # A cell that several objects chose answers for the one its box overlaps most.
    owner = torch.where(chosen, overlaps, -1.0).argmax(dim=1)
    chosen &= one_hot(owner, boxes.shape[1]).transpose(1, 2).bool()
    positive = chosen.any(dim=1)
    alignment = alignment * chosen
    best_alignment = alignment.amax(dim=2, keepdim=True)
    best_overlap = (overlaps * chosen).amax(dim=2, keepdim=True)
    strength = (alignment / (best_alignment + 1e-9) * best_overlap).amax(dim=1)
    images = torch.arange(len(boxes)).unsqueeze(1)
    target_boxes = boxes[images, owner]
    target_scores = beliefs[images, owner] * (strength * positive).unsqueeze(-1)
    return Assignment(positive, target_boxes, target_scores)


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every box of [N,G,4] with every box of [N,A,4]: [N,G,A]."""
    top_left = torch.maximum(first[:, :, None, :2], second[:, None, :, :2])
    bottom_right = torch.minimum(first[:, :, None, 2:], second[:, None, :, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    return shared / (_area(first)[:, :, None] + _area(second)[:, None, :] - shared).clamp(min=1e-6)


def _generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union of boxes in pairs, [B,4] and [B,4]: [B]."""
    top_left, bottom_right = (
        torch.maximum(first[:, :2], second[:, :2]),
        torch.minimum(first[:, 2:], second[:, 2:]),
    )
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = _area(first) + _area(second) - shared
    hull = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).prod(-1)
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
