"""YOLOv3: boxes that are made of anchors, at three scales, and classes that do not exclude each other.

Source: J. Redmon, A. Farhadi, YOLOv3: An Incremental Improvement, arXiv:1804.02767. How often each block is repeated
and how the scales are merged are of the authors' own network, yolov3.cfg.
"""

import torch
from torch import Tensor, nn

SIDE = 416
STRIDES = (32, 16, 8)
ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
"""Width and height of the anchors at each stride, in input pixels."""
_BLOCKS = (1, 2, 8, 8, 4)
"""How often each size has two convolutions added to what goes in."""
_LARGEST_GROWTH = 6.0
"""Of a side's logarithm, so that no box of an untrained network is infinite."""


class YoloV3(nn.Module):
    """Darknet-53 and three heads, each of which sees what the coarser ones have seen.

    Args:
        classes: how many kinds of objects there are; by default those of COCO.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.answers = 5 + classes
        self.stem = _layer(3, 32, 3)
        self.stages = nn.ModuleList(_stage(32 << depth, repeated) for depth, repeated in enumerate(_BLOCKS))
        self.necks = nn.ModuleList([_neck(1024, 512), _neck(768, 256), _neck(384, 128)])
        self.heads = nn.ModuleList(
            nn.Sequential(
                _layer(width, 2 * width, 3), nn.Conv2d(2 * width, len(ANCHORS[0]) * self.answers, 1)
            )
            for width in (512, 256, 128)
        )
        self.upward = nn.ModuleList(
            nn.Sequential(_layer(width, width // 2, 1), nn.Upsample(scale_factor=2)) for width in (512, 256)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Finds three objects a place and scale.

        Args:
            images: float32 [N,3,H,W], H and W multiples of 32.

        Returns:
            boxes: float32 [N,A,4], x1,y1,x2,y2 in input pixels, coarsest scale first;
            scores: float32 [N,classes,A], in [0, 1].
        """
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        maps = features.pop()
        found = []
        for scale, (neck, head) in enumerate(zip(self.necks, self.heads, strict=True)):
            seen = neck(maps)
            found.append(self._decoded(head(seen), scale))
            if scale < len(self.upward):
                maps = torch.cat([self.upward[scale](seen), features.pop()], dim=1)
        boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return boxes, scores.transpose(1, 2)

    def _decoded(self, maps: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Boxes [N,A,4] and scores [N,A,classes] of one scale."""
        height, width = maps.shape[2:]
        said = maps.reshape(-1, len(ANCHORS[scale]), self.answers, height, width).permute(0, 3, 4, 1, 2)
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corners = torch.stack([column, row], dim=-1).unsqueeze(2)
        middles = (said[..., :2].sigmoid() + corners) * STRIDES[scale]
        growth = said[..., 2:4].clamp(max=_LARGEST_GROWTH).exp()
        reach = growth * torch.tensor(ANCHORS[scale], dtype=maps.dtype) / 2
        boxes = torch.cat([middles - reach, middles + reach], dim=-1)
        scores = said[..., 4:5].sigmoid() * said[..., 5:].sigmoid()
        return boxes.flatten(1, 3), scores.flatten(1, 3)


class _Residual(nn.Module):
    """Half as many maps and back, added to what goes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_layer(channels, channels // 2, 1), _layer(channels // 2, channels, 3))

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = maps + self.layers(maps)
        return added


def _layer(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


def _stage(inputs: int, repeated: int) -> nn.Sequential:
    """Halves the size and doubles the maps."""
    return nn.Sequential(
        _layer(inputs, 2 * inputs, 3, stride=2), *(_Residual(2 * inputs) for _ in range(repeated))
    )


def _neck(inputs: int, outputs: int) -> nn.Sequential:
    """Five convolutions, sizes 1 and 3 in turn."""
    layers = [_layer(inputs, outputs, 1)]
    for _ in range(2):
        layers += [_layer(outputs, 2 * outputs, 3), _layer(2 * outputs, outputs, 1)]
    return nn.Sequential(*layers)
