"""OverFeat: which object an image shows, and where: two heads on one backbone.

Source: P. Sermanet, D. Eigen, X. Zhang, M. Mathieu, R. Fergus, Y. LeCun, OverFeat: Integrated Recognition, Localization
and Detection using Convolutional Networks, arXiv:1312.6229, table 1 (the fast model) and section 4.2 (localisation), at
one scale and one place.
"""

from torch import Tensor, nn

from retinue_export.zoo.initial_weights import he_initialised

SIDE = 231
_POOLED = 1024 * 6 * 6


class OverFeat(nn.Module):
    """Names the one object of an image and puts a box around it.

    The box is the same whatever the class ("single class regression", the better of the paper's two). Its edges are
    said as parts of width and height, since the paper does not say in what.

    Args:
        classes: how many kinds of objects there are; by default those of ImageNet.
        hidden: units of the dense layers of the classifier.
        box_hidden: likewise of the regression.
    """

    def __init__(
        self,
        classes: int = 1000,
        hidden: tuple[int, int] = (3072, 4096),
        box_hidden: tuple[int, int] = (4096, 1024),
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(96, 256, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(256, 512, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(512, 1024, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(1024, 1024, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        self.classes = _dense(*hidden, classes)
        self.box = _dense(*box_hidden, 4)
        he_initialised(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Answers for the image as a whole.

        Args:
            images: float32 [N,3,231,231].

        Returns:
            box: float32 [N,1,4], x1,y1,x2,y2 in input pixels;
            scores: float32 [N,classes,1], of sum 1.
        """
        features = self.features(images)
        box = self.box(features) * SIDE
        return box.unsqueeze(1), self.classes(features).softmax(dim=1).unsqueeze(2)


def _dense(first: int, second: int, answers: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(_POOLED, first), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(first, second), nn.ReLU(), nn.Dropout()),
        nn.Linear(second, answers),
    )
