"""YOLO, the first: one look at the image, and each cell of a grid says what is in its middle.

Source: J. Redmon, S. Divvala, R. Girshick, A. Farhadi, You Only Look Once: Unified, Real-Time Object Detection,
arXiv:1506.02640, figure 3.
"""

import torch
from torch import Tensor, nn

from retinue_export.zoo.initial_weights import he_initialised

SIDE = 448
CELLS = 7
"""Rows and columns of the grid, the paper's S."""
BOXES = 2
"""Boxes of a cell, the paper's B."""

# Outputs and size of each convolution, "pool" between them; the first has a stride of 2, and so has the third last.
_LAYERS: tuple[tuple[int, int] | str, ...] = (
    *((64, 7), "pool"),
    *((192, 3), "pool"),
    *((128, 1), (256, 3), (256, 1), (512, 3), "pool"),
    *((256, 1), (512, 3)) * 4,
    *((512, 1), (1024, 3), "pool"),
    *((512, 1), (1024, 3)) * 2,
    *((1024, 3), (1024, 3), (1024, 3), (1024, 3)),
)
_STRIDED = (0, 21)
"""Which of the 24 convolutions halve the size."""


class YoloV1(nn.Module):
    """24 convolutions and two dense layers.

    Args:
        classes: how many kinds of objects there are; by default those of PASCAL VOC.
        hidden: units of the first dense layer.
    """

    def __init__(self, classes: int = 20, hidden: int = 4096) -> None:
        super().__init__()
        self.class_count = classes
        self.features = nn.Sequential(*_convolutions())
        self.dense = nn.Sequential(
            *(nn.Flatten(), nn.Linear(1024 * CELLS * CELLS, hidden), nn.LeakyReLU(0.1), nn.Dropout()),
            nn.Linear(hidden, CELLS * CELLS * (BOXES * 5 + classes)),
        )
        row, column = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        self.register_buffer("corners", torch.stack([column, row], dim=-1).view(-1, 1, 2), persistent=False)
        self.corners: Tensor
        he_initialised(self, slope=0.1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Finds two objects a cell, both of the same classes.

        Args:
            images: float32 [N,3,448,448].

        Returns:
            boxes: float32 [N,98,4], x1,y1,x2,y2 in input pixels, cells row by row;
            scores: float32 [N,classes,98], in [0, 1]: how likely there is an object, times how likely it is of a class.
        """
        cells = CELLS * CELLS
        classes, confidences, boxes = self.dense(self.features(images)).split(
            [cells * self.class_count, cells * BOXES, cells * BOXES * 4], dim=1
        )
        # The network says where in its cell a box has its middle, and the square roots of its sides.
        middles, roots = boxes.reshape(-1, cells, BOXES, 4).split(2, dim=-1)
        middles = (middles + self.corners) / CELLS
        reach = roots.square() / 2
        decoded = torch.cat([middles - reach, middles + reach], dim=-1) * SIDE
        of_class = classes.reshape(-1, cells, 1, self.class_count).clamp(0, 1)
        scores = confidences.reshape(-1, cells, BOXES, 1).clamp(0, 1) * of_class
        return decoded.flatten(1, 2), scores.flatten(1, 2).transpose(1, 2)


def _convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, number = 3, 0
    for layer in _LAYERS:
        if isinstance(layer, str):
            layers.append(nn.MaxPool2d(2))
            continue
        outputs, size = layer
        stride = 2 if number in _STRIDED else 1
        layers += [nn.Conv2d(channels, outputs, size, stride, padding=size // 2), nn.LeakyReLU(0.1)]
        channels, number = outputs, number + 1
    return layers
