"""torchvision's two-stage detectors, whole: from images to detections, their masks and keypoints.

Both suppressions, of proposals and of detections, have a fixed number of rows for each image here; rows that hold
nothing have score 0. Heads run on the other rows only, wherever in the batch they are: an image costs what is in it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import permute_and_flatten
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from retinue_export import graph, keypoints, nms, placeholders
from retinue_export.nms import Suppression
from retinue_export.torchvision_detectors import regions
from retinue_export.torchvision_detectors.detector import Detector, Found, OwnPackaging
from retinue_server.vision.spec import InputSpec

_PROPOSALS, _DETECTIONS, _KEYPOINTS = "Proposals", "Detections", "Keypoints"
"""The places for ONNX nodes."""
_MOST_CANDIDATES = 4000
"""How many pairs of box and class suppression looks at in an image, the best ones: more than real images have above the
score that counts, and far more than there are detections."""
_SMALLEST_BOX = 0.01
"""In pixels, as in `RoIHeads.postprocess_detections`."""


class TwoStage(Detector):
    """A Faster, Mask or Keypoint R-CNN with a pyramid of features, which runs only while it is exported.

    Args:
        detector: see `Detector`.
        classes: see `Detector`.
        height: rows of the images.
        width: their columns.
        keypoint_names: what the keypoints of a detection are called; empty where it has none.
    """

    def __init__(
        self, detector: Any, classes: int, height: int, width: int, keypoint_names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(detector, classes)
        self.keypoint_names = keypoint_names
        self.size = (height, width)
        images = torch.zeros(1, 3, height, width)
        with torch.no_grad():
            features: dict[str, Tensor] = detector.backbone(images)
            self._set_anchors(detector.rpn.anchor_generator, images, list(features.values()))
            for part in self.modules():
                if isinstance(part, MultiScaleRoIAlign):
                    part(
                        features, [torch.tensor([[0.0, 0.0, width, height]])], [self.size]
                    )  # finds its scales
        candidates = sum(min(count, self._best_of_level) for count in self.anchors_by_level)
        self.proposals = Suppression(
            max_detections=min(detector.rpn.post_nms_top_n(), candidates),
            # torchvision keeps what has exactly this score, too.
            min_score=max(0.0, float(np.nextafter(np.float32(detector.rpn.score_thresh), np.float32(-1)))),
            iou_threshold=detector.rpn.nms_thresh,
        )

    @property
    def mask_side(self) -> int:
        """Rows and columns of a detection's mask; 0 where it has none."""
        heads = self.detector.roi_heads
        return 2 * int(heads.mask_roi_pool.output_size[0]) if heads.has_mask() else 0

    def packaging(self, spec: InputSpec) -> "TwoStagePackaging":
        """See `Detector`."""
        return TwoStagePackaging(spec, self)

    def own_answers(self, images: list[Tensor]) -> list[Found]:
        """See `Detector`; masks stay as the network gives them, not pasted into the image."""
        prepared, _ = self.detector.transform(images)
        return self.own_answers_to(prepared.tensors)

    def own_answers_to(self, images: Tensor) -> list[Found]:
        """Likewise, on images as `forward` takes them."""
        features = self.detector.backbone(images)
        sizes = [self.size] * images.shape[0]
        proposals, _ = self.detector.rpn(ImageList(images, sizes), features)
        found: list[Found]
        found, _ = self.detector.roi_heads(features, proposals, sizes)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Finds things, with placeholders where suppression and the search for keypoints come.

        Args:
            images: float32 [N,3,H,W], as the detector's own transform normalises them.

        Returns:
            `boxes`, `scores` and `classes` as a bundle has them, and `masks` or `keypoints` where there are such.
        """
        features: dict[str, Tensor] = self.detector.backbone(images)
        proposals, objectness, _ = _suppressed(_PROPOSALS, self.proposals, *self._proposed(features))
        found = _suppressed(_DETECTIONS, self.suppression, *self._classified(features, proposals, objectness))
        boxes, scores, classes = found
        if self.mask_side:
            return *found, self._masks(features, boxes, scores, classes)
        if self.keypoint_names:
            return *found, self._keypoints(features, boxes, scores)
        return boxes, scores, classes

    @property
    def _best_of_level(self) -> int:
        return int(self.detector.rpn.pre_nms_top_n())

    def _settings(self) -> Any:
        return self.detector.roi_heads

    def _proposed(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Candidates for proposals: boxes float32 [N,A,4], and scores [N,levels,A], since levels do not compete."""
        rpn = self.detector.rpn
        boxes, scores, levels = [], [], []
        anchors_by_level = torch.split(self.anchors, self.anchors_by_level)
        for number, (anchors, logits, deltas) in enumerate(
            zip(anchors_by_level, *rpn.head(list(features.values())), strict=True)
        ):
            best, index = _by_place(logits, 1).squeeze(2).topk(min(len(anchors), self._best_of_level), dim=1)
            chosen = _by_place(deltas, 4).gather(1, index.unsqueeze(2).expand(-1, -1, 4))
            decoded = rpn.box_coder.decode_single(chosen.flatten(0, 1), anchors[index].flatten(0, 1))
            boxes.append(clip_boxes_to_image(decoded.reshape(chosen.shape), self.size))
            scores.append(torch.where(_larger(boxes[-1], rpn.min_size), best.sigmoid(), 0.0))
            levels.append(torch.full_like(index, number))
        of_level = torch.cat(levels, dim=1).unsqueeze(1) == torch.arange(len(levels)).view(1, -1, 1)
        return torch.cat(boxes, dim=1), torch.where(of_level, torch.cat(scores, dim=1).unsqueeze(1), 0.0)

    def _classified(
        self, features: Mapping[str, Tensor], proposals: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Candidates for detections: boxes float32 [N,K,4], scores [N,C,K]."""
        heads = self.detector.roi_heads
        seen = regions.look(heads.box_roi_pool, features, proposals, scores)
        logits, deltas = heads.box_predictor(heads.box_head(seen.features))
        decoded = heads.box_coder.decode_single(deltas, seen.boxes).unflatten(1, (-1, 4))
        boxes = clip_boxes_to_image(decoded, self.size)
        likely = nn.functional.pad(logits.softmax(dim=-1)[:, 1:], (1, 0))  # the background is no detection
        likely = torch.where(_larger(boxes, _SMALLEST_BOX), likely, 0.0)
        pairs = seen.spread(likely, proposals).flatten(1)
        best, index = pairs.topk(min(pairs.shape[1], _MOST_CANDIDATES), dim=1)
        all_boxes = seen.spread(boxes, proposals).flatten(1, 2)
        chosen = all_boxes.gather(1, index.unsqueeze(2).expand(-1, -1, 4))
        return chosen, self.candidates(best, index % self.classes)

    def _masks(
        self, features: Mapping[str, Tensor], boxes: Tensor, scores: Tensor, classes: Tensor
    ) -> Tensor:
        """How likely each part of a box shows what was found: float32 [N,M,m,m]."""
        heads = self.detector.roi_heads
        seen = regions.look(heads.mask_roi_pool, features, boxes, scores)
        logits = heads.mask_predictor(heads.mask_head(seen.features))
        own = classes[seen.images, seen.rows].long().view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
        return seen.spread(logits.gather(1, own).squeeze(1).sigmoid(), boxes)

    def _keypoints(self, features: Mapping[str, Tensor], boxes: Tensor, scores: Tensor) -> Tensor:
        """Where the keypoints of what was found are, and the score of each: float32 [N,M,K,3]."""
        heads = self.detector.roi_heads
        seen = regions.look(heads.keypoint_roi_pool, features, boxes, scores)
        heatmaps = heads.keypoint_predictor(heads.keypoint_head(seen.features))
        (found,) = placeholders.leave(
            _KEYPOINTS,
            [heatmaps, seen.boxes],
            [(torch.float32, (heatmaps.shape[0], heatmaps.shape[1], 3))],
        )
        return seen.spread(found, boxes)


class TwoStagePackaging(OwnPackaging):
    """Packages a two-stage detector.

    Args:
        spec: see `Packaging`.
        detector: whose settings and outputs the graph has.
    """

    def __init__(self, spec: InputSpec, detector: TwoStage) -> None:
        super().__init__(spec, detector.normalisation, detector.suppression, graph.PixelsIn)
        self._proposals = detector.proposals
        self._mask_side = detector.mask_side
        self._keypoint_names = detector.keypoint_names

    def graph(self, network: nn.Module) -> onnx.ModelProto:
        """See `Packaging`."""
        outputs = ["boxes", "scores", "classes"]
        outputs += ["masks"] * bool(self._mask_side) + ["keypoints"] * bool(self._keypoint_names)
        model = graph.export(self.module(network), self.example(), outputs)
        self._fill(model, _PROPOSALS, self._proposals)
        self._fill(model, _DETECTIONS, self.suppression, adjustable=True)
        if self._keypoint_names:
            placeholders.fill(
                model, _KEYPOINTS, lambda whole, taken, given: keypoints.append(whole, *taken, *given)
            )
        return model

    def describe(self, manifest: pb.ModelManifest) -> None:
        """See `Packaging`."""
        super().describe(manifest)
        manifest.detect.mask_height = manifest.detect.mask_width = self._mask_side
        manifest.detect.keypoint_names.extend(self._keypoint_names)

    @staticmethod
    def _fill(model: onnx.ModelProto, name: str, suppression: Suppression, adjustable: bool = False) -> None:
        def append(whole: onnx.ModelProto, taken: list[str], given: list[str]) -> None:
            boxes, scores = taken
            best, their_scores, their_classes = given
            nms.append(
                whole,
                boxes,
                scores,
                suppression,
                (best, their_scores, their_classes),
                adjustable=adjustable,
            )

        placeholders.fill(model, name, append)


def _suppressed(
    name: str, suppression: Suppression, boxes: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves the place for `nms.append`."""
    images, rows = boxes.shape[0], suppression.max_detections
    best, best_scores, classes = placeholders.leave(
        name,
        [boxes, scores],
        [
            (torch.float32, (images, rows, 4)),
            (torch.float32, (images, rows)),
            (torch.int32, (images, rows)),
        ],
    )
    return best, best_scores, classes


def _by_place(answers: Tensor, numbers: int) -> Tensor:
    """What a convolution says of the anchors, [N,anchors*numbers,H,W], in the order of the anchors: [N,A,numbers]."""
    images, channels, height, width = answers.shape
    ordered: Tensor = permute_and_flatten(answers, images, channels // numbers, numbers, height, width)
    return ordered


def _larger(boxes: Tensor, smallest: float) -> Tensor:
    """Whether both sides of boxes [...,4] have this length."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= smallest).all(dim=-1)
