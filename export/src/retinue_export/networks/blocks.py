"""The building blocks that the detector and the segmenter share."""

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution, padded so that `stride` divides the size exactly; batch normalisation; ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input.

    Source: K. He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Keeps the shape, [N,C,H,W]."""
        added: Tensor = self.activation(features + self.second(self.first(features)))
        return added


class Stage(nn.Sequential):
    """Halves the size, then refines by residual blocks."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__(ConvNorm(inputs, outputs, 3, 2), *(Residual(outputs) for _ in range(depth)))


class Backbone(nn.Module):
    """A strided convolution and three stages.

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        depths: residual blocks at strides 4, 8 and 16.
    """

    def __init__(self, widths: tuple[int, int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            Stage(before, after, depth)
            for before, after, depth in zip(widths[:-1], widths[1:], depths, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes features at strides 2, 4, 8 and 16 from float32 [N,3,H,W], H and W multiples of 16."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


class Trunk(nn.Module):
    """A backbone to stride 16 and learned upsampling back to stride 8: how the detector and the segmenter begin.

    Attributes:
        finest_channels: channels of its features at stride 2.
        fine_channels: channels of its features at stride 4.
        channels: channels of its features at stride 8.
    """

    finest_channels = 24
    fine_channels = 48
    channels = 96

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone((self.finest_channels, self.fine_channels, 96, 128), (1, 2, 2))
        self.upsample = nn.ConvTranspose2d(128, 96, 2, stride=2)
        self.fuse = ConvNorm(192, self.channels, 1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes features at strides 2, 4 and 8 from float32 [N,3,H,W], H and W multiples of 16."""
        at_2, at_4, at_8, at_16 = self.backbone(images)
        return at_2, at_4, self.fuse(torch.cat([at_8, self.upsample(at_16)], dim=1))


def normalised(images: Tensor) -> Tensor:
    """Brings RGB levels in [0, 255] to about [-2, 2]."""
    return (images - 127.5) * (1 / 64)
