"""What can be asked besides the images: the options of `classify`, `detect` and `segment`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from retinue_client._segmentation import MaskFormat, MaskSize

Priority = Literal["high", "normal", "low"]


class CallOptions(TypedDict, total=False):
    """Options of every question.

    Attributes:
        model: The model's name. May be left out where the server has exactly one model for the task.
        version: The model's version, at least 1, also as text, or its label, such as "canary". Left out means what the
            server's split of requests says, or the newest. A server older than labels ignores one and does not say so.
        timeout_seconds: How long one request may take; a long list of images takes several. Left out means
            the client's own timeout.
        priority: When the images' turn is: "high" before all others', "normal", or "low" when nothing else waits.
        metadata: What goes beside each request, names in lower case and text of printable ASCII, such as what a server
            that splits its traffic is told to keep on one version.
    """

    model: str
    version: int | str | None
    priority: Priority
    timeout_seconds: float | None
    metadata: Mapping[str, str]


class ClassifyOptions(CallOptions, total=False):
    """Options of `classify`.

    Attributes:
        top_k: How many classes to return for each image. Left out means 5, or all where the model has fewer.
        min_score: Classes of lower probability are left out, in [0, 1].
        heatmap: Whether to say where the most probable class is seen, for models that can.
    """

    top_k: int | None
    min_score: float | None
    heatmap: bool


@dataclass(frozen=True, slots=True)
class ClassifyWith:
    """Which classifier `detect` asks about each detection, and what.

    Attributes:
        model: The classifier's name. May be left out where the server has exactly one.
        version: Its version, at least 1, or its label. Left out means what the server's split of requests says, or the
            newest.
        top_k: How many classes to return for each detection. Left out means 5, or all where the classifier has fewer.
        min_score: Classes of lower probability are left out, in [0, 1].
        context: How much of what surrounds a box is shown to it: so much of the box's width on the left and on the
            right, and of its height above and below, in [0, 1].
    """

    model: str = ""
    version: int | str | None = None
    top_k: int | None = None
    min_score: float | None = None
    context: float = 0.0


class DetectOptions(CallOptions, total=False):
    """Options of `detect`.

    Attributes:
        score_threshold: Detections of lower score are left out, in [0, 1]. Left out means the model's own
            default.
        max_detections: The most detections of one image, at least 1. Left out means all.
        classes: Only these classes, by name. Left out means every class.
        iou_threshold: Two boxes of one class that overlap more than this are one detection, in [0, 1]. Left
            out means the model's own; a model whose graph has it fixed takes no other. A server older than
            this option ignores it and does not say so.
        masks: Whether to say which pixels show each object, for models that can.
        classify_with: A classifier that says more of each detection, by name or, with options of its own, as
            `retinue_client.ClassifyWith(model, top_k=1)`: the server cuts the detections out of the image and asks it.
            Left out means none; a pipeline has its own.
    """

    score_threshold: float | None
    max_detections: int | None
    classes: str | Iterable[str]
    iou_threshold: float | None
    masks: bool
    classify_with: str | ClassifyWith | None


class SegmentOptions(CallOptions, total=False):
    """Options of `segment`.

    Attributes:
        mask_format: How the class map travels. Left out means "png".
        mask_size: The size of the class map. Left out means "original".
        classes: Only these classes, by name; the others become background. Left out means every class.
    """

    mask_format: MaskFormat
    mask_size: MaskSize
    classes: str | Iterable[str]
