"""The Fashion-MNIST classifier: a plain convolutional network without normalisation layers."""

import torch
from torch import Tensor, nn


class FashionCnn(nn.Module):
    """Conv 64 7x7, pool, 2 x conv 128, pool, 2 x conv 256, pool, dense 128, dense 64, one output a class.

    ReLU after every layer but the last, same padding, dropout 0.5 after both dense layers.

    Source: A. Géron, Hands-On Machine Learning, chapter 14, "CNN Architectures".
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 64, 7, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * 3 * 3, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Scores classes.

        Args:
            images: float32 [N,1,28,28], standardised grey levels.

        Returns:
            float32 [N,K], logits.
        """
        logits: Tensor = self.classifier(self.features(images))
        return logits


def shift_and_flip(images: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Moves each image by up to `reach` pixels both ways, edges filled with zeros, and mirrors every second one.

    Args:
        images: [N,C,H,W], any dtype.
        generator: where the randomness comes from.
        reach: the largest shift in pixels.

    Returns:
        The same dtype and shape, a new tensor.
    """
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (reach, reach, reach, reach))
    tops = torch.randint(0, 2 * reach + 1, (count, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * reach + 1, (count, 1, 1), generator=generator)
    rows = tops + torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).view(1, 1, -1)
    mirrored = torch.rand(count, 1, 1, generator=generator) < 0.5
    columns = lefts + torch.where(mirrored, width - 1 - columns, columns)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows, columns]
    return picked.permute(0, 3, 1, 2).contiguous()
