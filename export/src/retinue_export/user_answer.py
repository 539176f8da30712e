"""What a network of the user's own answers: as its task asks for, or refused in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export.errors import ExportError
from retinue_export.nms import Suppression
from retinue_export.packaging import OF_LOGITS, CountedDetections, Normalisation, Packaging
from retinue_export.user_code import told_in_one_sentence
from retinue_server.vision.spec import InputSpec

DEFAULT_SCORE_THRESHOLD = 0.5
"""The score from which a detection is returned, where nobody says another."""
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
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    regions: int = 0

    @classmethod
    def of_bundle(cls, manifest: pb.ModelManifest) -> Self:
        """Reads what a manifest says of it.

        Raises:
            ExportError: its task is none that a module can have.
        """
        if manifest.task not in (*OF_LOGITS, pb.TASK_DETECT):
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
        return OF_LOGITS[self.task](spec, normalisation)

    def fitted(self, shape: Sequence[int]) -> Self:
        """Keeps no more rows for detections than there can be.

        Args:
            shape: what `check` has returned.

        Returns:
            The same answer; a detector's `max_detections` is at most the number of its pairs of class and box.
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
            ExportError: it stays in training mode, cannot take images, or answers something else than its task asks
                for, or logits of one class.
        """
        _evaluate(network)
        shape: Sequence[int] = ()
        for count in (2, 1):
            taken = self._inputs(count, spec)
            answer = _answer(network, taken)
            shapes = " and ".join(str(list(tensor.shape)) for tensor in taken)
            if self.task == pb.TASK_DETECT:
                shape = _check_found(answer, count, shapes)
            else:
                shape = _check_logits(answer, _LOGITS[self.task], count, shapes)
        return shape

    @torch.no_grad()
    def check_values(self, network: nn.Module, spec: InputSpec) -> None:
        """Runs a module twice on the same images: one that has its weights, and has passed `check`.

        Raises:
            ExportError: it answers what is no number, a score outside of [0, 1], or something else the second time.
        """
        taken = self._inputs(2, spec)
        first, second = (self._values(_answer(network, taken)) for _ in range(2))
        if not all(values.isfinite().all() for values in first):
            raise ExportError("The module answers NaN or infinite numbers: look at its weights.")
        if self.task == pb.TASK_DETECT:
            _check_scores(first[1])
        if not all(map(_alike, first, second)):
            raise ExportError(
                "The module answers something else when it sees the same images again: it is not deterministic, or "
                "keeps state."
            )

    def _inputs(self, count: int, spec: InputSpec) -> list[Tensor]:
        """Images of noise, and regions where the module takes such."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count, spec.channels, spec.height, spec.width, generator=generator)
        return [images, self._regions(count, spec)] if self.regions else [images]

    def _regions(self, count: int, spec: InputSpec) -> Tensor:
        """The whole of the first image as often as possible, and nothing of the second."""
        regions = torch.zeros(count, self.regions, 4)
        regions[0] = torch.tensor([0, 0, spec.width, spec.height])
        return regions

    def _values(self, answer: Any) -> tuple[Tensor, ...]:
        """What counts of an answer: boxes and scores, or what a softmax makes of logits."""
        return tuple(answer) if self.task == pb.TASK_DETECT else (answer.softmax(dim=1),)


def _evaluate(network: nn.Module) -> None:
    """Brings a module to evaluation mode.

    Raises:
        ExportError: it cannot be, or not all of it.
    """
    with told_in_one_sentence("The module's eval() fails"):
        network.eval()
    staying = next((part for part in network.modules() if part.training), None)
    if staying is not None:
        raise ExportError(
            f"The module stays in training mode after eval(), at least a {type(staying).__name__} in it: let its "
            "train() set the mode that it is given."
        )


def _answer(network: nn.Module, taken: list[Tensor]) -> Any:
    floats = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    if floats - {torch.float32}:
        advice = "make its weights float32 by .float()"
    elif len(taken[0]) == 2:
        advice = "give --size and --grey as in its training"
    else:
        advice = "it must take any batch size"
    shapes = " and ".join(str(list(tensor.shape)) for tensor in taken)
    with told_in_one_sentence(f"The module cannot take float32 {shapes}, {advice}"):
        return network(*taken)


def _check_found(answer: object, count: int, taken: str) -> Sequence[int]:
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
        or not boxes.dtype == scores.dtype == torch.float32
        or not scores.numel()
    ):
        raise ExportError(
            f"The module returns {boxes.dtype} {list(boxes.shape)} and {scores.dtype} {list(scores.shape)} for "
            f"{taken}, not float32 {_FOUND}."
        )
    return list(scores.shape)


def _check_scores(scores: Tensor) -> None:
    least, most = scores.min().item(), scores.max().item()
    if not (least >= 0 and most <= 1):
        raise ExportError(
            f"The module's scores reach from {least:.3g} to {most:.3g}, not from 0 to 1: "
            "let it end in a sigmoid or a softmax."
        )


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def _check_logits(answer: object, wanted: str, count: int, taken: str) -> Sequence[int]:
    if not isinstance(answer, Tensor):
        raise ExportError(
            f"The module returns a {type(answer).__name__}, not logits {wanted}: wrap it in one that does."
        )
    shape = list(answer.shape)
    if len(shape) != wanted.count(",") + 1 or shape[0] != count or answer.dtype != torch.float32:
        raise ExportError(
            f"The module returns {answer.dtype} {shape} for {taken}, not float32 logits {wanted}."
        )
    if shape[1] < 2:
        raise ExportError(
            "The module answers one class, which would be the answer to everything: let it answer two or more, such as "
            "one for all else."
        )
    return shape
