"""ZFNet.

Source: M. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901, figure 3. The
normalisation across maps is of A. Krizhevsky, I. Sutskever, G. Hinton, ImageNet Classification with Deep Convolutional
Neural Networks, 2012, section 3.3.
"""

from torch import Tensor, nn

SIDE = 224
_ACROSS = 5
"""How many neighbouring maps normalise one."""


def _across_maps() -> nn.Module:
    # PyTorch divides alpha by the number of maps, the paper does not.
    return nn.LocalResponseNorm(_ACROSS, alpha=1e-4 * _ACROSS, beta=0.75, k=2.0)


class ZFNet(nn.Module):
    """AlexNet with a finer first look: 7 by 7 at stride 2, and stride 2 in the second layer."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 7, stride=2, padding=1), nn.ReLU()),
            *(nn.MaxPool2d(3, stride=2, padding=1), _across_maps()),
            *(nn.Conv2d(96, 256, 5, stride=2), nn.ReLU()),
            *(nn.MaxPool2d(3, stride=2, padding=1), _across_maps()),
            *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(4096, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 [N,3,224,224] to logits [N,classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
