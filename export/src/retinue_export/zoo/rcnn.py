"""R-CNN: regions are cut out, warped to one size, and classified one by one.

Source: R. Girshick, J. Donahue, T. Darrell, J. Malik, Rich Feature Hierarchies for Accurate Object Detection and
Semantic Segmentation, arXiv:1311.2524. The network is Caffe's version of A. Krizhevsky, I. Sutskever, G. Hinton,
ImageNet Classification with Deep Convolutional Neural Networks, 2012.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from retinue_export.zoo.initial_weights import he_initialised
from retinue_export.zoo.region_boxes import moved, of_own_class, scores

SIDE = 227
"""Rows and columns of a warped region."""
CONTEXT = 16
"""How many of them, at each side, show what is around it."""
_POOLED = 256 * 6 * 6


def _across_maps() -> nn.Module:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


class RCNN(nn.Module):
    """Tells what given regions show, and where it is exactly.

    Scores are those of the softmax that the network is fine-tuned with, not of the support vector machines that the
    paper trains behind it: these are no probabilities (appendix B compares both).

    Args:
        classes: how many kinds of objects there are, without the background; by default those of PASCAL VOC.
        hidden: units of both dense layers.
    """

    def __init__(self, classes: int = 20, hidden: int = 4096) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, stride=2), _across_maps()),
            *(
                nn.Conv2d(96, 256, 5, padding=2, groups=2),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=2),
                _across_maps(),
            ),
            *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(
            *(nn.Linear(_POOLED, hidden), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
        )
        self.classes = nn.Linear(hidden, 1 + classes)
        self.boxes = nn.Linear(_POOLED, 4 * classes)
        he_initialised(self)

    def forward(self, images: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Answers for each region and class.

        Args:
            images: float32 [N,3,H,W], of mean 0.
            regions: float32 [N,R,4], x1,y1,x2,y2 in input pixels; unused rows all 0.

        Returns:
            boxes: float32 [N,R*classes,4], x1,y1,x2,y2 in input pixels;
            scores: float32 [N,classes,R*classes], in [0, 1].
        """
        count = regions.shape[1]
        features = self.features(warped(images, regions))
        logits = self.classes(self.hidden(features))
        deltas = self.boxes(features).reshape(-1, count, self.classes.out_features - 1, 4)
        likely = scores(logits.reshape(-1, count, self.classes.out_features), regions)
        return of_own_class(moved(deltas, regions.unsqueeze(2)), likely)


def warped(images: Tensor, regions: Tensor) -> Tensor:
    """Cuts regions out, with what is around them, and stretches each to a square of one size.

    What lies outside of the image is 0, the mean of all images.

    Args:
        images: float32 [N,C,H,W].
        regions: float32 [N,R,4].

    Returns:
        float32 [N*R,C,227,227].
    """
    height, width = images.shape[2:]
    places = (torch.arange(SIDE) + 0.5 - CONTEXT) / (SIDE - 2 * CONTEXT)
    sides = regions[..., 2:] - regions[..., :2]
    x, y = (regions[..., :2].unsqueeze(-1) + sides.unsqueeze(-1) * places).unbind(dim=2)
    count = regions.shape[1]
    columns = (2 * x / width - 1).unsqueeze(2).expand(-1, -1, SIDE, -1)
    rows = (2 * y / height - 1).unsqueeze(3).expand(-1, -1, -1, SIDE)
    grid = torch.stack([columns, rows], dim=-1).flatten(1, 2)
    # One below the other, the regions of an image are one tall picture, so that no image is copied for each of them.
    cut = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return cut.reshape(-1, images.shape[1], count, SIDE, SIDE).transpose(1, 2).flatten(0, 1)
