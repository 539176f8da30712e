"""DeconvNet: segmentation by unpooling and deconvolution.

Source: H. Noh, S. Hong, B. Han, Learning Deconvolution Network for Semantic Segmentation, arXiv:1505.04366, table 2.
"""

from torch import Tensor, nn

SIDE = 224
_WIDTHS: tuple[tuple[int, ...], ...] = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)
"""Channels of VGG-16's convolutions, stage by stage."""


class DeconvNet(nn.Module):
    """VGG-16 down to one place, and its mirror image back up, each maximum put back where it was found.

    Args:
        classes: how many kinds of things there are; by default those of PASCAL VOC and the background.
    """

    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        channels = 3
        for widths in _WIDTHS:
            self.down.append(_stage(channels, widths, nn.Conv2d))
            channels = widths[-1]
        for widths, below in zip(
            _WIDTHS[::-1], (*(widths[-1] for widths in _WIDTHS[-2::-1]), 64), strict=True
        ):
            self.up.append(_stage(channels, (*widths[1:], below), nn.ConvTranspose2d))
            channels = below
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.dense = nn.Sequential(
            *_layer(nn.Conv2d(512, 4096, 7)),
            *_layer(nn.Conv2d(4096, 4096, 1)),
            *_layer(nn.ConvTranspose2d(4096, 512, 7)),
        )
        self.score = nn.Conv2d(64, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 [N,3,224,224] to logits [N,classes,224,224]."""
        maps, switches = images, []
        for stage in self.down:
            maps, places = self.pool(stage(maps))
            switches.append(places)
        maps = self.dense(maps)
        for stage in self.up:
            maps = stage(self.unpool(maps, switches.pop()))
        logits: Tensor = self.score(maps)
        return logits


def _stage(
    channels: int, widths: tuple[int, ...], kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]
) -> nn.Sequential:
    """Convolutions, or deconvolutions, of 3 by 3 that keep height and width."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += _layer(kind(channels, width, 3, padding=1))
        channels = width
    return nn.Sequential(*layers)


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
