"""Fully convolutional networks on VGG-16: FCN-32s, FCN-16s, FCN-8s.

Source: J. Long, E. Shelhamer, T. Darrell, Fully Convolutional Networks for Semantic Segmentation, arXiv:1411.4038. The
padding of 100 and where the maps are cropped are of the authors' own networks, fcn.berkeleyvision.org.
"""

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from retinue_export.zoo.initial_weights import he_initialised

_PADDING = 100
"""Around the image, so that even of a small one something is left for the 7 by 7 convolution."""
_POOL_3, _POOL_4 = 17, 24
"""After which layers of VGG-16 strides of 8 and 16 are reached."""


class FCN(nn.Module):
    """VGG-16 with its dense layers as convolutions, and learned upsampling.

    Args:
        stride: 32 upsamples what VGG-16 says at once; 16 and 8 add what its fourth, and its third, pooling says.
        classes: how many kinds of things there are; by default those of PASCAL VOC and the background.
    """

    def __init__(self, stride: int, classes: int = 21) -> None:
        super().__init__()
        features = make_layers(cfgs["D"], batch_norm=False)
        features[0].padding = (_PADDING, _PADDING)
        for part in features:
            if isinstance(part, nn.MaxPool2d):
                part.ceil_mode = True
        self.to_8 = features[:_POOL_3]
        self.to_16 = features[_POOL_3:_POOL_4]
        self.to_32 = features[_POOL_4:]
        self.dense = nn.Sequential(
            *(nn.Conv2d(512, 4096, 7), nn.ReLU(), nn.Dropout()),
            *(nn.Conv2d(4096, 4096, 1), nn.ReLU(), nn.Dropout()),
        )
        self.stride = stride
        self.score_32 = nn.Conv2d(4096, classes, 1)
        if stride <= 16:
            self.up_16 = bilinear(classes, 2)
            self.score_16 = nn.Conv2d(512, classes, 1)
        if stride <= 8:
            self.up_8 = bilinear(classes, 2)
            self.score_8 = nn.Conv2d(256, classes, 1)
        self.up = bilinear(classes, stride)
        he_initialised(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 [N,3,H,W] to logits [N,classes,H,W]."""
        at_8 = self.to_8(images)
        at_16 = self.to_16(at_8)
        scores: Tensor = self.score_32(self.dense(self.to_32(at_16)))
        if self.stride <= 16:
            scores = self.up_16(scores)
            scores = scores + _cropped(self.score_16(at_16), 5, scores)
        if self.stride <= 8:
            scores = self.up_8(scores)
            scores = scores + _cropped(self.score_8(at_8), 9, scores)
        return _cropped(self.up(scores), {32: 19, 16: 27, 8: 31}[self.stride], images)


def bilinear(classes: int, factor: int) -> nn.ConvTranspose2d:
    """Upsampling that begins as bilinear interpolation of each class alone, and is learned from there."""
    layer = nn.ConvTranspose2d(classes, classes, 2 * factor, stride=factor, bias=False)
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    kernel = torch.outer(1 - distance, 1 - distance)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(classes), range(classes)] = kernel
    return layer


def _cropped(maps: Tensor, start: int, like: Tensor) -> Tensor:
    """Cuts from row and column `start` as many as `like` has."""
    return maps[:, :, start : start + like.shape[2], start : start + like.shape[3]]


def fcn_32s() -> FCN:
    """One upsampling by 32."""
    return FCN(32)


def fcn_16s() -> FCN:
    """One skip."""
    return FCN(16)


def fcn_8s() -> FCN:
    """Two skips."""
    return FCN(8)
