"""torchvision's single-stage detectors up to suppression: the part that PyTorch exports with a dynamic batch.

What follows it in torchvision works on one image after the other, and is `nms` here.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from retinue_export.torchvision_detectors.detector import Detector, Found, OwnPackaging
from retinue_server.vision.spec import InputSpec


class Dense(Detector):
    """A detector from normalised images to candidates.

    Args:
        detector: see `Detector`.
        classes: see `Detector`.
        height: rows of the images.
        width: their columns.
    """

    def __init__(self, detector: Any, classes: int, height: int, width: int) -> None:
        super().__init__(detector, classes)
        images = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            features = self._features(images)
        self._set_anchors(detector.anchor_generator, images, features)

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Finds candidates.

        Args:
            images: float32 [N,3,H,W], as the detector's own transform normalises them.

        Returns:
            boxes: float32 [N,K,4], x1,y1,x2,y2 in input pixels;
            scores: float32 [N,C,K], in [0, 1]; 0 where a class is no candidate.
        """

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the detector's head says of each anchor."""
        answers: dict[str, Tensor] = self.detector.head(self._features(images))
        return answers

    def packaging(self, spec: InputSpec) -> OwnPackaging:
        """See `Detector`."""
        return OwnPackaging(spec, self.normalisation, self.suppression)

    def own_answers(self, images: list[Tensor]) -> list[Found]:
        """See `Detector`."""
        found: list[Found] = self.detector(images)
        return found

    def decoded(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Turns what was said of anchors, both float32 [N,k,4], into boxes."""
        decoded: Tensor = self.detector.box_coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return decoded.reshape(deltas.shape)

    def _features(self, images: Tensor) -> list[Tensor]:
        return list(self.detector.backbone(images).values())


class DenseSsd(Dense):
    """SSD: a softmax over the classes and the background, and the best candidates of each class."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Dense`; K is the number of anchors."""
        outputs = self.outputs(images)
        deltas = outputs["bbox_regression"]
        boxes = self.decoded(deltas, self.anchors.expand(deltas.shape[0], -1, -1))
        scores = outputs["cls_logits"].softmax(dim=-1).transpose(1, 2)[:, 1:]
        best = scores.topk(min(self.detector.topk_candidates, len(self.anchors)), dim=2).values
        scores = torch.where(scores >= best[..., -1:], scores, 0.0)
        return boxes, nn.functional.pad(scores, (0, 0, 1, 0))


class DenseByLevel(Dense):
    """RetinaNet and FCOS: independent classes, and the best pairs of place and class of each level of the pyramid."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Dense`; K is the number of pairs."""
        outputs = self.outputs(images)
        scores = self.scores(outputs)
        count = scores.shape[2]
        boxes, best, classes = [], [], []
        for anchors, deltas, level in zip(
            torch.split(self.anchors, self.anchors_by_level),
            torch.split(outputs["bbox_regression"], self.anchors_by_level, dim=1),
            torch.split(scores, self.anchors_by_level, dim=1),
            strict=True,
        ):
            pairs = level.flatten(1)
            top, index = pairs.topk(min(self.detector.topk_candidates, pairs.shape[1]), dim=1)
            place = index // count
            boxes.append(self.decoded(deltas.gather(1, place.unsqueeze(2).expand(-1, -1, 4)), anchors[place]))
            best.append(top)
            classes.append(index % count)
        return torch.cat(boxes, dim=1), self.candidates(torch.cat(best, dim=1), torch.cat(classes, dim=1))

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Scores of all places: float32 [N,A,C]."""
        return outputs["cls_logits"].sigmoid()


class DenseFcos(DenseByLevel):
    """FCOS: a place counts by how near it is to the middle of its object, too."""

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """See `DenseByLevel`."""
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def decoded(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See `Dense`."""
        decoded: Tensor = self.detector.box_coder.decode(deltas, anchors)
        return decoded
