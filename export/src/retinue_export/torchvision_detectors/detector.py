"""What all of torchvision's detectors have in common: how they are packaged, and what they are compared with."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from retinue_export.nms import Suppression
from retinue_export.packaging import CountedDetections, Normalisation
from retinue_export.parity import Outputs, Runner
from retinue_server.vision.spec import InputSpec

Found = dict[str, Tensor]
"""What torchvision says of one image: `boxes`, `scores`, `labels`, and `masks` or `keypoints` where it has them."""


class Detector(nn.Module, ABC):
    """One of torchvision's detectors, for images of one size, as it is exported.

    Class ids are torchvision's own, 0 being the background where a detector has one.

    Args:
        detector: what torchvision makes.
        classes: how many kinds of things it was made for, with the background.
    """

    def __init__(self, detector: Any, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.detector = detector.eval()

    @abstractmethod
    def packaging(self, spec: InputSpec) -> "OwnPackaging":
        """Packages it with torchvision's own normalisation and suppression."""

    @abstractmethod
    def own_answers(self, images: list[Tensor]) -> list[Found]:
        """Runs torchvision's own code, its post-processing included, on images float32 [3,H,W] in [0, 1]."""

    @property
    def normalisation(self) -> Normalisation:
        """What torchvision's transform does to pixels."""
        transform = self.detector.transform
        return Normalisation(tuple(transform.image_mean), tuple(transform.image_std))

    @property
    def suppression(self) -> Suppression:
        """Which of its candidates torchvision keeps."""
        settings = self._settings()
        return Suppression(
            max_detections=settings.detections_per_img,
            min_score=settings.score_thresh,
            iou_threshold=settings.nms_thresh,
        )

    def _set_anchors(self, generator: Any, images: Tensor, features: list[Tensor]) -> None:
        """Makes the anchors once, since all images have one size.

        Args:
            generator: torchvision's.
            images: float32 [1,3,H,W].
            features: what the backbone makes of them, by level.
        """
        (anchors,) = generator(ImageList(images, [(images.shape[2], images.shape[3])]), features)
        self.register_buffer("anchors", anchors, persistent=False)
        self.anchors: Tensor
        places = [level.shape[2] * level.shape[3] for level in features]
        self.anchors_by_level = [len(anchors) // sum(places) * count for count in places]

    def _settings(self) -> Any:
        """What of torchvision's detector knows how detections are suppressed."""
        return self.detector

    def candidates(self, best: Tensor, classes: Tensor) -> Tensor:
        """Scores of candidates that are of one class each, as suppression takes them.

        Args:
            best: float32 [N,K], the score of each.
            classes: int64 [N,K].

        Returns:
            float32 [N,C,K], 0 but for a candidate's own class.
        """
        of_class = classes.unsqueeze(1) == torch.arange(self.classes).view(1, -1, 1)
        return torch.where(of_class, best.unsqueeze(1), 0.0)


class OwnPackaging(CountedDetections):
    """Packages a detector that is compared with torchvision's own code: the reference takes a `Detector`."""

    def reference(self, network: nn.Module) -> Runner:
        """See `Packaging`."""
        assert isinstance(network, Detector)
        return own_runner(network)


def own_runner(detector: Detector) -> Runner:
    """Runs torchvision's own code on images of the size that `detector` is made for.

    Returns:
        What gives a bundle's outputs.
    """

    @torch.no_grad()
    def run(images: NDArray[np.uint8]) -> Outputs:
        detector.detector.transform.fixed_size = (images.shape[2], images.shape[1])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        answers = [_as_in_a_bundle(found) for found in detector.own_answers(list(pixels))]
        outputs: Outputs = {
            name: np.zeros((len(images), detector.suppression.max_detections, *value.shape[1:]), value.dtype)
            for name, value in answers[0].items()
        }
        for number, answer in enumerate(answers):
            for name, value in answer.items():
                outputs[name][number, : len(value)] = value
        return outputs

    return run


def _as_in_a_bundle(found: Found) -> Outputs:
    outputs: Outputs = {
        "boxes": found["boxes"].numpy(),
        "scores": found["scores"].numpy(),
        "classes": found["labels"].int().numpy(),
    }
    if "masks" in found:
        outputs["masks"] = found["masks"].squeeze(1).numpy()
    if "keypoints" in found:
        places, scores = found["keypoints"][..., :2], found["keypoints_scores"].unsqueeze(-1)
        outputs["keypoints"] = torch.cat([places, scores], dim=-1).numpy()
    return outputs
