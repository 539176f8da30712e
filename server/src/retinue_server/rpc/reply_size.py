"""How large the masks, heatmaps and classes of objects in a reply will be: a few kilobytes can hold many megapixels."""

from collections.abc import Sequence

from retinue.v1 import manifest_pb2

from retinue_server.batching.tickets import Outcome
from retinue_server.catalog import ServedModel
from retinue_server.crops import Question
from retinue_server.errors import ImageError, InvalidRequestError
from retinue_server.results import (
    Answer,
    ClassifyOptions,
    DetectionList,
    DetectOptions,
    MaskFormat,
    PictureOptions,
    SegmentOptions,
    Work,
)
from retinue_server.vision import heatmap

# Of a class besides its name, while the reply is built.
_CLASS_BYTES = 48


def expected_bytes(
    options: PictureOptions, works: Sequence[Work | ImageError], model: ServedModel, *, max_bytes: int
) -> int:
    """The bytes that masks or heatmaps will take, before there are any.

    Raw masks are known exactly. Others are guessed, but never as more than the options allow an image.

    Raises:
        InvalidRequestError: Raw masks will take more than `max_bytes`.
    """
    if not isinstance(options, SegmentOptions) and not options.extra_outputs:
        return 0
    opened = [work for work in works if isinstance(work, Work)]
    if isinstance(options, SegmentOptions) and options.mask_format is MaskFormat.RAW:
        return _raw_mask_bytes(options, opened, model, max_bytes)
    return sum(min(_guess(options, work, model.manifest), options.max_picture_bytes) for work in opened)


def check_crop_classes(detections: int, question: Question, *, max_bytes: int) -> None:
    """Refuses a request whose detections' classes could take more than a reply may.

    Args:
        detections: The most that all images of the request may have.
        question: What is asked of each.
        max_bytes: Of a reply.

    Raises:
        InvalidRequestError: They could.
    """
    size_bytes = detections * _crop_class_bytes(question)
    if size_bytes > max_bytes:
        raise InvalidRequestError(
            f"{question.options.top_k} classes of up to {detections} detections could take {size_bytes} bytes, more "
            f"than {max_bytes}; lower classify_with.top_k or max_detections, or send fewer images.",
            reason="REPLY_TOO_LARGE",
        )


def crop_class_bytes(outcomes: Sequence[Outcome[Answer]], question: Question) -> int:
    """The bytes that the classes of what was found will take at most."""
    results = (outcome.value.result for outcome in outcomes if isinstance(outcome.value, Answer))
    found = sum(len(result.scores) for result in results if isinstance(result, DetectionList))
    return found * _crop_class_bytes(question)


def _crop_class_bytes(question: Question) -> int:
    longest = max(len(label.encode()) for label in question.model.class_ids)
    return question.options.top_k * (_CLASS_BYTES + longest)


def _guess(options: PictureOptions, work: Work, manifest: manifest_pb2.ModelManifest) -> int:
    """About what the masks or the heatmap of one image take, nearer to the most than to the usual."""
    pixels = work.image.width * work.image.height
    # EXIF may yet turn the image.
    columns = max(work.image.size)
    if isinstance(options, ClassifyOptions):
        return min(pixels, heatmap.MAX_SIDE**2)
    if isinstance(options, DetectOptions):
        # An object has about one run in each of its columns.
        return 2 * columns * options.max_detections
    rows = manifest.segment.map_height
    if options.mask_format is MaskFormat.PNG or not options.original_size:
        columns = manifest.segment.map_width
    return min(pixels, columns * rows)


def _raw_mask_bytes(
    options: SegmentOptions, opened: Sequence[Work], model: ServedModel, max_bytes: int
) -> int:
    if options.original_size:
        pixels = sum(work.image.width * work.image.height for work in opened)
        advice = "ask for PNG or COCO_RLE, for the model's size, or send fewer images"
    else:
        pixels = len(opened) * model.manifest.segment.map_height * model.manifest.segment.map_width
        advice = "ask for PNG or COCO_RLE, or send fewer images"
    mask_bytes = pixels * (1 if len(model.manifest.labels) <= 256 else 2)
    if mask_bytes > max_bytes:
        raise InvalidRequestError(
            f"the raw masks would take {mask_bytes} bytes, more than {max_bytes}; {advice}.",
            reason="REPLY_TOO_LARGE",
        )
    return mask_bytes
