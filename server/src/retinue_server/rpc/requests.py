"""From the wire: protobuf requests to opened images and checked options."""

from collections.abc import Sequence

from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.batching.tickets import Priority
from retinue_server.catalog import ServedModel
from retinue_server.crops import Question
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import ClassifyOptions, DetectOptions, MaskFormat, Options, SegmentOptions, Work
from retinue_server.vision import instance_masks, regions
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.readers import ChannelOrder, Sent

DEFAULT_TOP_K = 5
_LABELS_IN_MESSAGES = 20

_CHANNEL_ORDERS: dict[int, ChannelOrder] = {
    image_pb2.CHANNEL_ORDER_UNSPECIFIED: "RGB",
    image_pb2.CHANNEL_ORDER_RGB: "RGB",
    image_pb2.CHANNEL_ORDER_BGR: "BGR",
    image_pb2.CHANNEL_ORDER_RGBA: "RGBA",
    image_pb2.CHANNEL_ORDER_GRAY: "GRAY",
}
_MASK_FORMATS = {
    pb.MASK_FORMAT_UNSPECIFIED: MaskFormat.PNG,
    pb.MASK_FORMAT_PNG: MaskFormat.PNG,
    pb.MASK_FORMAT_COCO_RLE: MaskFormat.COCO_RLE,
    pb.MASK_FORMAT_RAW: MaskFormat.RAW,
}
_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
}
_ORIGINAL_SIZE = {
    pb.MASK_SIZE_UNSPECIFIED: True,
    pb.MASK_SIZE_ORIGINAL: True,
    pb.MASK_SIZE_MODEL: False,
}


def version(
    request: pb.ClassifyRequest | pb.DetectRequest | pb.SegmentRequest | pb.ClassifyWith | pb.GetModelRequest,
) -> int | str:
    """The version that a request names: its number, its label, or 0.

    Raises:
        InvalidRequestError: It names both, or a negative number.
    """
    if request.version < 0:
        raise InvalidRequestError(
            f"version is {request.version}, but must be at least 1, or 0 for what the model's split says.",
            reason="VERSION_OUT_OF_RANGE",
        )
    if request.version and request.version_label:
        raise InvalidRequestError(
            "the request has both a version and a version_label; leave one of them out.",
            reason="VERSION_NAMED_TWICE",
        )
    return request.version_label or request.version


def open_image(
    image: image_pb2.Image, options: Options, *, max_pixels: int, max_regions: int
) -> Work | ImageError:
    """Opens an image without decoding it; returns, not raises, why it cannot be read, for it fails alone.

    Args:
        image: As it came.
        options: What is wanted of it.
        max_pixels: Larger ones are refused from their header.
        max_regions: How many regions the model looks at, 0 where it looks at the whole image.
    """
    try:
        regions.check_count(len(image.regions), max_regions)
        return Work(opened(image, max_pixels), options, _regions(image) if max_regions else None)
    except ImageError as error:
        # Its frames would keep the request's bytes, and through the callers' frames itself, until the next garbage
        # collection.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)


def _regions(image: image_pb2.Image) -> regions.Regions:
    return regions.checked([(box.x_min, box.y_min, box.x_max, box.y_max) for box in image.regions])


def opened(image: image_pb2.Image, max_pixels: int) -> Sent:
    """Opens an image without decoding it.

    Raises:
        ImageError: It cannot be read.
    """
    source = image.WhichOneof("source")
    if source == "encoded":
        return open_encoded(image.encoded, max_pixels=max_pixels)
    if source == "raw":
        raw = image.raw
        order = _CHANNEL_ORDERS.get(raw.channel_order)
        if order is None:
            raise ImageError(
                f"raw.channel_order {raw.channel_order} is unknown; use RGB, BGR, RGBA or GRAY.",
                reason="CHANNEL_ORDER_UNKNOWN",
            )
        return open_raw(raw.data, raw.height, raw.width, order, max_pixels=max_pixels)
    raise ImageError("the image is empty: set `encoded` or `raw`.", reason="IMAGE_EMPTY")


def classify_options(
    request: pb.ClassifyRequest, model: ServedModel, *, max_picture_bytes: int
) -> ClassifyOptions:
    """Checks the options of a ClassifyRequest; a heatmap may take `max_picture_bytes`.

    Raises:
        InvalidRequestError: One is out of its range.
    """
    if request.heatmap and not model.manifest.classify.heatmap_height:
        raise InvalidRequestError(
            f"model '{model.name}' gives no heatmap; leave heatmap unset, or export the model again with one, where "
            "its network allows that.",
            reason="NO_HEATMAP",
        )
    top_k, min_score = _wanted_classes(request, model)
    return ClassifyOptions(top_k, min_score, request.heatmap, max_picture_bytes=max_picture_bytes)


def crop_question(request: pb.ClassifyWith, model: ServedModel) -> Question:
    """Checks the options of a ClassifyWith.

    Raises:
        InvalidRequestError: One is out of its range.
    """
    top_k, min_score = _wanted_classes(request, model)
    context = _unit(request.context, "context", "CONTEXT_OUT_OF_RANGE")
    return Question(model, ClassifyOptions(top_k, min_score, max_picture_bytes=0), context)


def _wanted_classes(request: pb.ClassifyRequest | pb.ClassifyWith, model: ServedModel) -> tuple[int, float]:
    """How many classes, and from which score on."""
    classes = len(model.manifest.labels)
    top_k = request.top_k if request.HasField("top_k") else min(DEFAULT_TOP_K, classes)
    if not 1 <= top_k <= classes:
        raise InvalidRequestError(
            f"top_k is {top_k}, but must be 1 to {classes}, the classes of model '{model.name}'.",
            reason="TOP_K_OUT_OF_RANGE",
        )
    return top_k, _unit(request.min_score, "min_score") if request.HasField("min_score") else 0.0


def detect_options(request: pb.DetectRequest, model: ServedModel, *, max_picture_bytes: int) -> DetectOptions:
    """Checks the options of a DetectRequest; all masks of an image may take `max_picture_bytes`.

    Raises:
        InvalidRequestError: One is out of its range, or a class is unknown.
    """
    limits = model.manifest.detect
    iou_threshold = limits.nms_iou_threshold
    if request.HasField("iou_threshold"):
        if not limits.adjustable_thresholds:
            raise InvalidRequestError(
                f"model '{model.name}' has its IoU threshold fixed in its graph at {iou_threshold:.3g}; leave "
                "iou_threshold unset, or export the model again.",
                reason="IOU_THRESHOLD_FIXED",
            )
        iou_threshold = _unit(request.iou_threshold, "iou_threshold", "IOU_THRESHOLD_OUT_OF_RANGE")
    if request.masks and not limits.mask_height:
        raise InvalidRequestError(
            f"model '{model.name}' gives boxes and no masks; leave masks unset.", reason="NO_MASKS"
        )
    threshold = limits.default_score_threshold
    if request.HasField("score_threshold"):
        threshold = _unit(request.score_threshold, "score_threshold")
    most = request.max_detections if request.HasField("max_detections") else limits.max_detections
    if most < 1:
        raise InvalidRequestError(
            f"max_detections is {most}, but must be at least 1.", reason="MAX_DETECTIONS_OUT_OF_RANGE"
        )
    return DetectOptions(
        threshold,
        min(most, limits.max_detections),
        _class_ids(request.classes, model),
        iou_threshold,
        request.masks,
        max_picture_bytes=min(max_picture_bytes, instance_masks.MAX_BYTES),
    )


def segment_options(
    request: pb.SegmentRequest, model: ServedModel, *, max_picture_bytes: int
) -> SegmentOptions:
    """Checks the options of a SegmentRequest; a class map may take `max_picture_bytes`.

    Raises:
        InvalidRequestError: A format or size is unknown, or a class is.
    """
    mask_format = _MASK_FORMATS.get(request.mask_format)
    if mask_format is None:
        raise InvalidRequestError(
            f"mask_format {request.mask_format} is unknown; use PNG, COCO_RLE or RAW.",
            reason="MASK_FORMAT_UNKNOWN",
        )
    original_size = _ORIGINAL_SIZE.get(request.mask_size)
    if original_size is None:
        raise InvalidRequestError(
            f"mask_size {request.mask_size} is unknown; use ORIGINAL or MODEL.", reason="MASK_SIZE_UNKNOWN"
        )
    return SegmentOptions(
        mask_format,
        original_size,
        _class_ids(request.classes, model),
        max_picture_bytes=max_picture_bytes,
    )


def priority(request: pb.ClassifyRequest | pb.DetectRequest | pb.SegmentRequest) -> Priority:
    """When the turn of a request's images is.

    Raises:
        InvalidRequestError: There is no such priority.
    """
    found = _PRIORITIES.get(request.priority)
    if found is None:
        raise InvalidRequestError(
            f"priority {request.priority} is unknown; use HIGH, NORMAL or LOW.", reason="PRIORITY_UNKNOWN"
        )
    return found


def _unit(value: float, name: str, reason: str = "SCORE_OUT_OF_RANGE") -> float:
    # NaN fails both comparisons.
    if not 0 <= value <= 1:
        raise InvalidRequestError(f"{name} is {value}, but must be in [0, 1].", reason=reason)
    return value


def _class_ids(labels: Sequence[str], model: ServedModel) -> frozenset[int] | None:
    if not labels:
        return None
    unknown = sorted({label for label in labels if label not in model.class_ids})
    if unknown:
        known = list(model.manifest.labels[:_LABELS_IN_MESSAGES])
        more = ", ..." if len(model.manifest.labels) > len(known) else ""
        raise InvalidRequestError(
            f"model '{model.name}' has no class {unknown[0][:128]!r}; its classes are: {', '.join(known)}{more}.",
            reason="CLASS_UNKNOWN",
        )
    return frozenset().union(*(model.class_ids[label] for label in labels))
