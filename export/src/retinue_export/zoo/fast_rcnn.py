"""Fast R-CNN: the image is looked at once, and each region pools what was seen in it.

Source: R. Girshick, Fast R-CNN, arXiv:1504.08083, model L: VGG-16.
"""

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import roi_pool

from retinue_export.zoo.initial_weights import he_initialised
from retinue_export.zoo.region_boxes import moved, of_own_class, rois, scores

STRIDE = 16
POOLED = 7
"""Rows and columns that each region is pooled to."""


class FastRCNN(nn.Module):
    """Tells what given regions show, and where it is exactly.

    Args:
        classes: how many kinds of objects there are, without the background; by default those of PASCAL VOC.
        hidden: units of both dense layers.
    """

    def __init__(self, classes: int = 20, hidden: int = 4096) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"], batch_norm=False)[:-1]
        self.hidden = nn.Sequential(
            *(nn.Flatten(), nn.Linear(512 * POOLED * POOLED, hidden), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
        )
        self.classes = nn.Linear(hidden, 1 + classes)
        self.boxes = nn.Linear(hidden, 4 * classes)
        he_initialised(self)

    def forward(self, images: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Answers for each region and class.

        Args:
            images: float32 [N,3,H,W].
            regions: float32 [N,R,4], x1,y1,x2,y2 in input pixels; unused rows all 0.

        Returns:
            boxes: float32 [N,R*classes,4], x1,y1,x2,y2 in input pixels;
            scores: float32 [N,classes,R*classes], in [0, 1].
        """
        count = regions.shape[1]
        pooled = roi_pool(self.features(images), rois(regions), POOLED, 1 / STRIDE)
        features = self.hidden(pooled)
        logits = self.classes(features).reshape(-1, count, self.classes.out_features)
        deltas = self.boxes(features).reshape(-1, count, self.classes.out_features - 1, 4)
        return of_own_class(moved(deltas, regions.unsqueeze(2)), scores(logits, regions))
