"""What a network of the user's own answers: as its task asks for, or refused in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export.errors import ExportError
from retinue_export.nms import Suppression
from retinue_export.packaging import CountedDetections, Normalisation, Packaging, classifier, segmenter
from retinue_export.user_code import in_one_line
from retinue_server.vision.spec import InputSpec

_PACKAGINGS = {pb.TASK_CLASSIFY: classifier, pb.TASK_SEGMENT: segmenter}
_LOGITS = {pb.TASK_CLASSIFY: "[N, classes]", pb.TASK_SEGMENT: "[N, classes, height, width]"}
_FOUND = "boxes [N, A, 4] in input pixels and scores [N, classes, A]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a module answers, and what becomes of it.

    Attributes:
        task: TASK_CLASSIFY, for logits [N,K]; TASK_SEGMENT, for logits [N,K,h,w]; TASK_DETECT, for boxes [N,A,4],
            x1,y1,x2,y2 in input pixels, and scores [N,K,A], in [0, 1].
        suppression: which of a detector's boxes are detections.
        score_threshold: the score from which a detection is returned when a request names none, in [0, 1].
        regions: how many regions of an image a detector looks at, which it takes beside images; 0 where it takes none.
    """

    task: pb.Task.ValueType
    suppression: Suppression = field(default=Suppression())
    score_threshold: float = 0.5
    regions: int = 0

    @classmethod
    def of_bundle(cls, manifest: pb.ModelManifest) -> Self:
        """Reads what a manifest says of it.

        Raises:
            ExportError: its task is none that a module can have.
        """
        if manifest.task not in (*_PACKAGINGS, pb.TASK_DETECT):
            raise ExportError(
                "A module of yours classifies, segments or detects, and the bundle does neither."
            )
        options = manifest.detect
        suppression = Suppression(options.max_detections, options.min_score, options.nms_iou_threshold)
        return cls(manifest.task, suppression, options.default_score_threshold, options.max_regions)

    def packaging(self, spec: InputSpec, normalisation: Normalisation) -> Packaging:
        """How the module becomes a graph."""
        if self.task == pb.TASK_DETECT:
            return CountedDetections(spec, normalisation, self.suppression, regions=self.regions)
        return _PACKAGINGS[self.task](spec, normalisation)

    def fitted(self, shape: Sequence[int]) -> Self:
        """Keeps no more rows for detections than there can be.

        Args:
            shape: what `check` has returned.
        """
        if self.task != pb.TASK_DETECT:
            return self
        rows = min(self.suppression.max_detections, shape[1] * shape[2])
        return replace(self, suppression=replace(self.suppression, max_detections=rows))

    @torch.no_grad()
    def check(self, network: nn.Module, spec: InputSpec) -> Sequence[int]:
        """Runs a module on one image and on two.

        Returns:
            The shape of its logits, or scores, for one: classes come second.

        Raises:
            ExportError: it cannot take them, or answers something else than its task asks for.
        """
        network.eval()
        shape: Sequence[int] = ()
        for count in (2, 1):
            taken = [torch.rand(count, spec.channels, spec.height, spec.width)]
            if self.regions:
                taken.append(self._regions(count, spec))
            answer = _answer(network, taken)
            shapes = " and ".join(str(list(tensor.shape)) for tensor in taken)
            if self.task == pb.TASK_DETECT:
                shape = self._check_found(answer, count, shapes)
            else:
                shape = _check_logits(answer, _LOGITS[self.task], count, shapes)
        return shape

    def _regions(self, count: int, spec: InputSpec) -> Tensor:
        """The whole of the first image as often as possible, and nothing of the second."""
        regions = torch.zeros(count, self.regions, 4)
        regions[0] = torch.tensor([0, 0, spec.width, spec.height])
        return regions

    def _check_found(self, answer: object, count: int, taken: str) -> Sequence[int]:
        match answer:
            case (Tensor() as boxes, Tensor() as scores):
                pass
            case _:
                raise ExportError(
                    f"The module returns a {type(answer).__name__}, not a pair of {_FOUND}: wrap it in one that does."
                )
        candidates, classes = list(boxes.shape[1:2]), list(scores.shape[1:2])
        if (
            list(boxes.shape) != [count, *candidates, 4]
            or list(scores.shape) != [count, *classes, *candidates]
            or not (boxes.is_floating_point() and scores.is_floating_point())
            or not scores.numel()
        ):
            raise ExportError(
                f"The module returns {boxes.dtype} {list(boxes.shape)} and {scores.dtype} {list(scores.shape)} for "
                f"{taken}, not float {_FOUND}."
            )
        least, most = scores.min().item(), scores.max().item()
        if not (least >= 0 and most <= 1):
            raise ExportError(
                f"The module's scores reach from {least:.3g} to {most:.3g}, not from 0 to 1: "
                "let it end in a sigmoid or a softmax."
            )
        return list(scores.shape)


def _answer(network: nn.Module, taken: list[Tensor]) -> object:
    try:
        answer: object = network(*taken)
    except Exception as error:  # the user's code, which may raise anything
        advice = (
            "give --size and --grey as in its training"
            if len(taken[0]) == 2
            else "it must take any batch size"
        )
        shapes = " and ".join(str(list(tensor.shape)) for tensor in taken)
        raise ExportError(
            f"The module cannot take float32 {shapes}, {advice}: {in_one_line(error)}"
        ) from error
    return answer


def _check_logits(answer: object, wanted: str, count: int, taken: str) -> Sequence[int]:
    if not isinstance(answer, Tensor):
        raise ExportError(
            f"The module returns a {type(answer).__name__}, not logits {wanted}: wrap it in one that does."
        )
    shape = list(answer.shape)
    if len(shape) != wanted.count(",") + 1 or shape[0] != count or not answer.is_floating_point():
        raise ExportError(
            f"The module returns {answer.dtype} {shape} for {taken}, not float logits {wanted}."
        )
    return shape
