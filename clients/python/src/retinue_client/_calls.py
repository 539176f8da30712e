"""The three questions as values: how a request begins and what its answer means. No input or output."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

import numpy as np
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client._checks import check_classification, check_detections, check_segmentation
from retinue_client._classification import Classification, ClassScore
from retinue_client._detections import Detections, Keypoint
from retinue_client._errors import ImageError, InvalidRequestError, ResponseError, image_error_from_status
from retinue_client._options import ClassifyOptions, ClassifyWith, DetectOptions, Priority, SegmentOptions
from retinue_client._segmentation import ClassArea, MaskFormat, MaskSize, RleMask, Segmentation
from retinue_client._timing import Timing

ResultT = TypeVar("ResultT")

_PRIORITIES: dict[Priority, pb.Priority.ValueType] = {
    "high": pb.PRIORITY_HIGH,
    "normal": pb.PRIORITY_NORMAL,
    "low": pb.PRIORITY_LOW,
}
_METADATA_NAME = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")
_METADATA_VALUE = re.compile(r"[ -~]+")
# A label begins with a letter. More digits than these no version has.
_VERSION_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
# Options of ClassifyWith that are taken for options of `detect`.
_OF_THE_CLASSIFIER = ("top_k", "min_score", "context")
_MASK_FORMATS: dict[MaskFormat, pb.MaskFormat.ValueType] = {
    "png": pb.MASK_FORMAT_PNG,
    "coco_rle": pb.MASK_FORMAT_COCO_RLE,
    "raw": pb.MASK_FORMAT_RAW,
}
_MASK_SIZES: dict[MaskSize, pb.MaskSize.ValueType] = {
    "original": pb.MASK_SIZE_ORIGINAL,
    "model": pb.MASK_SIZE_MODEL,
}


@dataclass(frozen=True, slots=True)
class Call(Generic[ResultT]):
    """One question with its options, to be asked about any number of images.

    Attributes:
        method: The RPC of VisionService.
        template: A request with every option and no images.
        timeout_seconds: How long one request may take, or None where the caller did not say.
        read_result: Makes a result of an outcome's `result`, its `timing`, and the response they are from.
        check_result: Raises ResponseError where a result cannot be that of the image that was sent.
        metadata: What goes beside each request.
    """

    method: str
    template: Any
    timeout_seconds: float | None
    read_result: Callable[[Any, Timing, Any], ResultT]
    check_result: Callable[[ResultT, image_pb2.Image], None]
    metadata: tuple[tuple[str, str], ...] = ()

    def new_request(self) -> Any:
        """A request with every option and no images."""
        request = type(self.template)()
        request.CopyFrom(self.template)
        return request

    def read_response(
        self, response: Any, images: Sequence[image_pb2.Image], sources: list[str]
    ) -> list[ResultT | ImageError]:
        """One result or ImageError for each image of a request.

        Where a result cannot be that of its image, there is an ImageError whose cause is the ResponseError.

        Args:
            response: The answer.
            images: What was asked about.
            sources: Which images these are, for the errors.

        Raises:
            ResponseError: There are not as many outcomes as there were images, or one of them is empty.
        """
        if len(response.outcomes) != len(sources):
            raise ResponseError(
                f"The server answered {len(response.outcomes)} outcomes for {len(sources)} images."
            )
        read: list[ResultT | ImageError] = []
        for outcome, image, source in zip(response.outcomes, images, sources, strict=True):
            kind = outcome.WhichOneof("outcome")
            if kind is None:
                raise ResponseError("The server answered neither a result nor an error for an image.")
            if kind == "error":
                read.append(image_error_from_status(outcome.error, source))
                continue
            timing = _timing(outcome.timing)
            result = self.read_result(outcome.result, timing, response)
            try:
                self.check_result(result, image)
                read.append(result)
            except ResponseError as error:
                failed = ImageError(error.message, source=source, code=error.code, reason=error.reason)
                failed.__cause__ = error
                read.append(failed)
        return read


def classify_call(
    *,
    model: str = "",
    version: int | str | None = None,
    timeout_seconds: float | None = None,
    priority: Priority = "normal",
    metadata: Mapping[str, str] | None = None,
    top_k: int | None = None,
    min_score: float | None = None,
    heatmap: bool = False,
    **unknown: object,
) -> Call[Classification]:
    """Which class does an image show? Options as in `ClassifyOptions`.

    Raises:
        InvalidRequestError: An option is of the wrong type or too large a number to be sent.
        TypeError: There is no such option.
    """
    _refuse_unknown("classify", ClassifyOptions, unknown)
    template = make_request(
        pb.ClassifyRequest,
        model=model,
        **version_fields(version),
        priority=_priority(priority),
        top_k=top_k,
        min_score=min_score,
        heatmap=heatmap,
    )
    return Call(
        "Classify",
        template,
        timeout_seconds,
        functools.partial(_classification, heatmap),
        check_classification,
        _entries(metadata),
    )


def detect_call(  # noqa: PLR0913 (a question's options are its parameters)
    *,
    model: str = "",
    version: int | str | None = None,
    timeout_seconds: float | None = None,
    priority: Priority = "normal",
    metadata: Mapping[str, str] | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    classes: str | Iterable[str] = (),
    iou_threshold: float | None = None,
    masks: bool = False,
    classify_with: str | ClassifyWith | None = None,
    **unknown: object,
) -> Call[Detections]:
    """Which objects are where? Options as in `DetectOptions`.

    Raises:
        InvalidRequestError: An option is of the wrong type or too large a number to be sent.
        TypeError: There is no such option.
    """
    _refuse_unknown("detect", DetectOptions, unknown)
    template = make_request(
        pb.DetectRequest,
        model=model,
        **version_fields(version),
        priority=_priority(priority),
        score_threshold=score_threshold,
        max_detections=max_detections,
        classes=_names(classes),
        iou_threshold=iou_threshold,
        masks=masks,
        classify_with=_classify_with(classify_with),
    )
    read_result = functools.partial(_detections, masks, classify_with is not None)
    return Call("Detect", template, timeout_seconds, read_result, check_detections, _entries(metadata))


def segment_call(
    *,
    model: str = "",
    version: int | str | None = None,
    timeout_seconds: float | None = None,
    priority: Priority = "normal",
    metadata: Mapping[str, str] | None = None,
    mask_format: MaskFormat = "png",
    mask_size: MaskSize = "original",
    classes: str | Iterable[str] = (),
    **unknown: object,
) -> Call[Segmentation]:
    """Which class has each pixel? Options as in `SegmentOptions`.

    Raises:
        InvalidRequestError: An option is of the wrong type, too large a number to be sent, or an unknown
            word.
        TypeError: There is no such option.
    """
    _refuse_unknown("segment", SegmentOptions, unknown)
    if mask_format not in _MASK_FORMATS or mask_size not in _MASK_SIZES:
        raise InvalidRequestError(
            f"mask_format is {' or '.join(_MASK_FORMATS)} and mask_size {' or '.join(_MASK_SIZES)}, "
            f"not {mask_format!r} and {mask_size!r}."
        )
    template = make_request(
        pb.SegmentRequest,
        model=model,
        **version_fields(version),
        priority=_priority(priority),
        mask_format=_MASK_FORMATS[mask_format],
        mask_size=_MASK_SIZES[mask_size],
        classes=_names(classes),
    )
    read_result = functools.partial(_segmentation, mask_size)
    return Call("Segment", template, timeout_seconds, read_result, check_segmentation, _entries(metadata))


def _refuse_unknown(question: str, options: type, unknown: Mapping[str, object]) -> None:
    """Says which options there are where one is given that is none."""
    for name in unknown:
        if question == "detect" and name in _OF_THE_CLASSIFIER:
            raise TypeError(
                f"detect() has no option {name!r}; ask the classifier with it: "
                f"classify_with=retinue_client.ClassifyWith(model, {name}=...)."
            )
        raise TypeError(
            f"{question}() has no option {name!r}; it has {', '.join(sorted(get_type_hints(options)))}."
        )


def version_fields(version: int | str | None) -> dict[str, Any]:
    """The fields of a request that name a model's version, by its number, also as text, or by its label."""
    if isinstance(version, str) and _VERSION_NUMBER.fullmatch(version):
        version = int(version)
    return {"version_label": version} if isinstance(version, str) else {"version": version or 0}


def make_request(request: type[Any], **options: Any) -> Any:
    """A request of this type with these options.

    Raises:
        InvalidRequestError: An option is of the wrong type or too large a number to be sent.
    """
    try:
        return request(**options)
    except (TypeError, ValueError) as exc:
        raise InvalidRequestError(f"An option cannot be sent: {exc}.") from exc


def _entries(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    entries = tuple((metadata or {}).items())
    for name, value in entries:
        if name == "authorization":
            # Beside the client's own it would be one of two; and without TLS anybody could read it on its way.
            raise InvalidRequestError(
                "metadata has no 'authorization': give the client what says who calls, as Client(token=...)."
            )
        # gRPC says only that something is wrong, and takes what is not text for bytes.
        if (
            not _METADATA_NAME.fullmatch(name)
            or not isinstance(value, str)
            or not _METADATA_VALUE.fullmatch(value)
        ):
            raise InvalidRequestError(
                f"metadata {name!r}: {value!r} cannot be sent: a name is of lower-case letters, digits, '.', '_' and "
                "'-', and a value is text of printable ASCII."
            )
    return entries


def _priority(name: Priority) -> pb.Priority.ValueType:
    if name not in _PRIORITIES:
        raise InvalidRequestError(f"priority is {', '.join(_PRIORITIES)}, not {name!r}.")
    return _PRIORITIES[name]


def _classify_with(asked: str | ClassifyWith | None) -> pb.ClassifyWith | None:
    if asked is None:
        return None
    one = ClassifyWith(asked) if isinstance(asked, str) else asked
    if not isinstance(one, ClassifyWith):
        raise InvalidRequestError(f"classify_with is a model's name or a ClassifyWith, not {asked!r}.")
    made: pb.ClassifyWith = make_request(
        pb.ClassifyWith,
        model=one.model,
        **version_fields(one.version),
        top_k=one.top_k,
        min_score=one.min_score,
        context=one.context,
    )
    return made


def _names(classes: str | Iterable[str]) -> list[str]:
    return [classes] if isinstance(classes, str) else list(classes)


def _timing(timing: pb.Timing) -> Timing:
    return Timing(
        decode_us=timing.decode_us,
        queue_us=timing.queue_us,
        inference_us=timing.inference_us,
        postprocess_us=timing.postprocess_us,
        total_us=timing.total_us,
        batch_size=timing.batch_size,
    )


def _classification(
    with_heatmap: bool, result: pb.Classification, timing: Timing, response: pb.ClassifyResponse
) -> Classification:
    if with_heatmap and not result.heatmap:
        raise ResponseError("The server answered without a heatmap: it is older than this client.")
    return Classification(
        classes=_class_scores(result.classes),
        model=response.model,
        version=response.version,
        timing=timing,
        encoded_heatmap=result.heatmap,
    )


def _class_scores(entries: Iterable[pb.ClassScore]) -> tuple[ClassScore, ...]:
    return tuple(ClassScore(entry.class_id, entry.label, entry.score) for entry in entries)


def _detections(
    with_masks: bool,
    with_classes: bool,
    result: pb.DetectionList,
    timing: Timing,
    response: pb.DetectResponse,
) -> Detections:
    found = result.detections
    # The counts of a mask without a pixel are not empty: they say how many zeros there are.
    if with_masks and not all(one.mask_counts for one in found):
        raise ResponseError("The server answered without a mask: it is older than this client.")
    if with_classes and not response.classifier:
        raise ResponseError("The server asked no classifier: it is older than this client.")
    height, width = result.image_height, result.image_width
    masks = (RleMask(one.class_id, one.label, one.mask_counts, height, width) for one in found)
    keypoints = tuple(
        tuple(Keypoint(point.name, point.x, point.y, point.score) for point in one.keypoints) for one in found
    )
    boxes = [(one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max) for one in found]
    return Detections(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array([one.score for one in found], dtype=np.float32),
        class_ids=np.array([one.class_id for one in found], dtype=np.int32),
        labels=tuple(one.label for one in found),
        image_width=width,
        image_height=height,
        model=response.model,
        version=response.version,
        timing=timing,
        masks=tuple(masks) if with_masks else (),
        keypoints=keypoints if any(keypoints) else (),
        classes=tuple(_class_scores(one.classes) for one in found) if response.classifier else (),
        classifier=response.classifier,
        classifier_version=response.classifier_version,
    )


def _segmentation(
    mask_size: MaskSize, result: pb.Segmentation, timing: Timing, response: pb.SegmentResponse
) -> Segmentation:
    kind = result.WhichOneof("mask")
    if kind is None:
        raise ResponseError("The server answered a segmentation without a class map.")
    height, width = result.height, result.width
    return Segmentation(
        width=width,
        height=height,
        areas=tuple(ClassArea(area.class_id, area.label, area.area_pixels) for area in result.areas),
        mask_format=kind,
        mask_size=mask_size,
        encoded=b"" if kind == "coco_rle" else getattr(result, kind),
        rle_masks=tuple(
            RleMask(mask.class_id, mask.label, mask.counts, height, width) for mask in result.coco_rle.masks
        ),
        model=response.model,
        version=response.version,
        timing=timing,
    )
