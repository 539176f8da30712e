"""What callers ask for, and what they get: plain values between `rpc` and the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from retinue_server.vision.readers import Opened
from retinue_server.vision.regions import Regions


class Task(StrEnum):
    """The kinds of question a model answers."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"
    TENSOR = "tensor"


class MaskFormat(StrEnum):
    """Ways to write a class map."""

    PNG = "png"
    COCO_RLE = "coco_rle"
    RAW = "raw"


_NOTHING: frozenset[str] = frozenset()
_MASKS = frozenset({"masks"})
_HEATMAP = frozenset({"heatmap"})


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a caller wants to know of an image.

    Attributes:
        top_k: The most classes.
        min_score: Classes of lower probability are left out.
        heatmap: Whether to say where the best one is seen.
        max_picture_bytes: The most that the heatmap may take.
    """

    top_k: int
    min_score: float
    heatmap: bool = False
    max_picture_bytes: int = field(kw_only=True)

    @property
    def extra_outputs(self) -> frozenset[str]:
        """What the graph must compute beyond what it always does."""
        return _HEATMAP if self.heatmap else _NOTHING


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """What a caller wants of the objects of an image.

    Attributes:
        score_threshold: Objects of lower score are left out.
        max_detections: The most objects.
        class_ids: Only these classes; None means all.
        iou_threshold: Which overlap makes two boxes of one class one object.
        masks: Whether to say which pixels show an object.
        max_picture_bytes: The most that all masks of the image may take.
    """

    score_threshold: float
    max_detections: int
    class_ids: frozenset[int] | None
    iou_threshold: float
    masks: bool = False
    max_picture_bytes: int = field(kw_only=True)

    @property
    def extra_outputs(self) -> frozenset[str]:
        """As for `ClassifyOptions`."""
        return _MASKS if self.masks else _NOTHING


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What a caller wants of the pixels of an image.

    Attributes:
        mask_format: How the class map is to be written.
        original_size: Whether in the image's own size or in the model's.
        class_ids: Only these classes; None means all.
        max_picture_bytes: The most that the class map may take, unless it is raw, whose size is known before.
    """

    mask_format: MaskFormat
    original_size: bool
    class_ids: frozenset[int] | None
    max_picture_bytes: int = field(kw_only=True)

    @property
    def extra_outputs(self) -> frozenset[str]:
        """As for `ClassifyOptions`."""
        return _NOTHING


@dataclass(frozen=True, slots=True)
class TensorOptions:
    """What a caller wants who asks for a network's outputs as they are.

    Attributes:
        outputs: Their names.
        extra_outputs: As for `ClassifyOptions`.
        score_threshold: As for `DetectOptions`, where a network takes one.
        iou_threshold: Likewise.
        max_picture_bytes: The most that all outputs of one image may take.
    """

    outputs: tuple[str, ...]
    extra_outputs: frozenset[str]
    score_threshold: float
    iou_threshold: float
    max_picture_bytes: int = field(kw_only=True)


PictureOptions = ClassifyOptions | DetectOptions | SegmentOptions
"""What callers of the typed API want."""

Options = PictureOptions | TensorOptions


@dataclass(slots=True)
class Work:
    """One image to answer.

    Attributes:
        image: Opened, not yet decoded.
        options: What the caller wants of it.
        regions: Where to look, in the image's own pixels, for models that must be told.
    """

    image: Opened
    options: Options
    regions: Regions | None = None


@dataclass(slots=True)
class TensorWork:
    """One row of tensors, or all of them, to be run by a model that has no manifest.

    Attributes:
        tensors: All inputs of the request, by name.
        row: Which row of each; None for a request that runs as a whole.
    """

    tensors: Mapping[str, npt.NDArray[Any]]
    row: int | None


# What is made for every image is not frozen: that would take four times as long.
@dataclass(slots=True)
class Classification:
    """The most probable classes.

    Attributes:
        class_ids: k of them.
        scores: Their probabilities in [0, 1], descending.
        heatmap: A PNG file of what `vision.heatmap.to_original` gives; None where it was not asked for.
    """

    class_ids: list[int]
    scores: list[float]
    heatmap: bytes | None = None

    @property
    def entries(self) -> int:
        """How much a reply has to tell one by one."""
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class DetectionList:
    """The objects of one image.

    Attributes:
        boxes: float32 [D,4], x1,y1,x2,y2 in the original image's pixels.
        scores: float32 [D], in [0, 1], descending.
        class_ids: int32 [D].
        masks: COCO's counts of each object's pixels in the original image; None where they were not asked for.
        keypoints: float32 [D,K,3], x and y in the original image's pixels and a score; None where the model has none.
        image_width: Width of the original image in pixels.
        image_height: Its height.
        classes: What a classifier says of each object, None of one without a pixel; None where none was asked.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    image_width: int
    image_height: int
    masks: list[bytes] | None = None
    keypoints: npt.NDArray[np.float32] | None = None
    classes: list[Classification | None] | None = None

    @property
    def entries(self) -> int:
        """As for `Classification`."""
        objects = len(self.scores) * (1 if self.keypoints is None else 1 + self.keypoints.shape[1])
        return objects + sum(one.entries for one in self.classes or () if one is not None)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The class map of one image, encoded.

    Attributes:
        width: Width of the class map in pixels.
        height: Its height.
        mask_format: How it is written.
        mask: A PNG file, raw class ids, or (class id, COCO counts) pairs, by the format.
        areas: (class id, pixels) of the classes present, largest first.
    """

    width: int
    height: int
    mask_format: MaskFormat
    mask: bytes | list[tuple[int, bytes]]
    areas: list[tuple[int, int]]

    @property
    def entries(self) -> int:
        """As for `Classification`."""
        return len(self.areas)


@dataclass(slots=True)
class TensorRows:
    """A network's outputs for one image, as they are.

    Attributes:
        arrays: By name, without the batch's dimension, where there is one. Coordinates are in pixels of the image that
            was sent.
    """

    arrays: dict[str, npt.NDArray[Any]]

    @property
    def entries(self) -> int:
        """As for `Classification`; nothing is told one by one."""
        return 0


TaskResult = Classification | DetectionList | Segmentation | TensorRows


@dataclass(slots=True)
class Answer:
    """A result, and where the engine's time went.

    Attributes:
        result: What the caller asked for.
        decode_seconds: Reading and resizing this image.
        inference_seconds: The run of the whole batch.
        postprocess_seconds: Making this result of the network's output.
        batch_size: Images that ran together.
    """

    result: TaskResult
    decode_seconds: float
    inference_seconds: float
    postprocess_seconds: float
    batch_size: int
