"""torchvision's single-stage detectors up to suppression: the part that PyTorch exports with a dynamic batch.

What follows it in torchvision works on one image after the other, and is `nms` here.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from retinue_export.errors import ExportError
from retinue_export.nms import Suppression
from retinue_export.packaging import DetectorPackaging, Normalisation
from retinue_export.parity import Outputs, Runner
from retinue_server.vision.spec import InputSpec


class Dense(nn.Module, ABC):
    """A detector from normalised images to candidates.

    Class ids are torchvision's own, 0 being the background where a detector has one.

    Args:
        detector: what torchvision makes.
        classes: how many kinds of things it was made for, with the background.
        height: rows of the images.
        width: their columns.
    """

    def __init__(self, detector: Any, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.detector = detector.eval()
        images = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            features = self._features(images)
            (anchors,) = detector.anchor_generator(ImageList(images, [(height, width)]), features)
        self.register_buffer("anchors", anchors, persistent=False)
        self.anchors: Tensor
        places = [level.shape[2] * level.shape[3] for level in features]
        self.anchors_by_level = [len(anchors) // sum(places) * count for count in places]

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

    def packaging(self, spec: InputSpec) -> DetectorPackaging:
        """Packages it with the detector's own normalisation and suppression."""
        detector = self.detector
        normalisation = Normalisation(
            tuple(detector.transform.image_mean), tuple(detector.transform.image_std)
        )
        suppression = Suppression(
            max_detections=detector.detections_per_img,
            min_score=detector.score_thresh,
            iou_threshold=detector.nms_thresh,
        )
        return DetectorPackaging(spec, normalisation, suppression)

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
        of_class = torch.cat(classes, dim=1).unsqueeze(1) == torch.arange(count).view(1, -1, 1)
        return torch.cat(boxes, dim=1), torch.where(of_class, torch.cat(best, dim=1).unsqueeze(1), 0.0)

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


_DENSE: dict[type, type[Dense]] = {
    FCOS: DenseFcos,
    RetinaNet: DenseByLevel,
    SSD: DenseSsd,
}


def build(architecture: str, classes: int, height: int, width: int) -> Dense:
    """Builds a detector with random weights.

    Args:
        architecture: torchvision's name, such as "retinanet_resnet50_fpn".
        classes: how many kinds of things there are, with torchvision's own background.
        height: rows of the images, a multiple of 32; those of SSD are fixed.
        width: their columns, likewise.

    Raises:
        ExportError: it is none of torchvision's single-stage detectors, or takes images of another size.
    """
    detector = torchvision.models.get_model(
        architecture, weights=None, weights_backbone=None, num_classes=classes
    )
    kind = _DENSE.get(type(detector))
    if kind is None:
        raise ExportError(f"{architecture} is none of torchvision's single-stage detectors.")
    fixed = detector.transform.fixed_size
    if fixed is not None and fixed != (width, height):
        raise ExportError(f"{architecture} takes images of {fixed[1]} x {fixed[0]} pixels and no others.")
    if fixed is None and (height % 32 or width % 32):
        raise ExportError(f"{architecture} takes images whose height and width are multiples of 32.")
    return kind(detector, classes, height, width)


def own_runner(dense: Dense) -> Runner:
    """Runs torchvision's detector itself, its post-processing included, on images of the size that `dense` is made for.

    Returns:
        What gives `boxes`, `scores` and `classes` as a bundle does.
    """
    detector = dense.detector
    rows = detector.detections_per_img

    @torch.no_grad()
    def run(images: NDArray[np.uint8]) -> Outputs:
        detector.transform.fixed_size = (images.shape[2], images.shape[1])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        outputs: Outputs = {
            "boxes": np.zeros((len(images), rows, 4), np.float32),
            "scores": np.zeros((len(images), rows), np.float32),
            "classes": np.zeros((len(images), rows), np.int32),
        }
        for row, found in enumerate(detector(list(pixels))):
            for name, key in (("boxes", "boxes"), ("scores", "scores"), ("classes", "labels")):
                outputs[name][row, : len(found[key])] = found[key].numpy()
        return outputs

    return run
