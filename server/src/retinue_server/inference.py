"""Tensors in, tensors out: what a request for a model's outputs as they are becomes, and what becomes of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from retinue.v1 import manifest_pb2 as pb

from retinue_server import interface
from retinue_server.batching.tickets import Outcome
from retinue_server.catalog import ServedModel
from retinue_server.errors import ImageError, InvalidRequestError, RetinueError
from retinue_server.results import Answer, Task, TensorOptions, TensorRows, TensorWork, Work
from retinue_server.runtime import contract
from retinue_server.tensors import (
    BYTES,
    DTYPES,
    Array,
    TensorSpec,
    classification,
    count_elements,
    size_of,
    stacked,
)
from retinue_server.vision import regions
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.readers import InputPixels, Opened

# Named one by one, each with a label of up to 256 characters, of four bytes each.
_MOST_CLASSES = 1000
_CLASS_BYTES = 1100


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_images: Images, or rows of tensors.
        max_image_pixels: Pixels of an encoded image.
        max_reply_bytes: Bytes of all outputs.
    """

    max_images: int
    max_image_pixels: int
    max_reply_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for.

    Attributes:
        name: Its name.
        top_k: How many classes to name instead of giving all values; 0 for these.
    """

    name: str
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """What a request says of an input before its bytes are looked at.

    Attributes:
        name: Its name.
        datatype: Of its elements.
        shape: With the batch's dimension.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def check_inputs(model: ServedModel, declared: Sequence[Declared], max_images: int) -> int:
    """Holds the inputs of a request against the model's, before memory is taken for them.

    Returns:
        How many images, or rows, there are.

    Raises:
        InvalidRequestError: One is unknown, missing, there twice, or of another type or shape, or there are too many
            images.
    """
    specs = model.interface.inputs
    for one in declared:
        spec = specs.get(one.name)
        if spec is None:
            raise InvalidRequestError(
                f"model '{model.name}' has no input '{one.name[:128]}'; it takes {_listed(specs)}.",
                reason="INPUT_UNKNOWN",
            )
        count_elements(one.name, one.datatype, one.shape)
        if not interface.takes(spec, one.datatype, one.shape):
            raise InvalidRequestError(
                f"input '{one.name}' is {one.datatype[:32]} {list(one.shape)}, but model '{model.name}' takes {spec}"
                f"{', or BYTES [-1] of encoded images' if spec.encoded else ''}.",
                reason="INPUT_MISMATCH",
            )
    names = [one.name for one in declared]
    if len(set(names)) < len(names):
        raise InvalidRequestError("an input is there twice; give each once.", reason="INPUT_TWICE")
    if missing := [spec for name, spec in specs.items() if not spec.optional and name not in names]:
        raise InvalidRequestError(
            f"input '{missing[0].name}', {missing[0]}, is missing; model '{model.name}' takes {_listed(specs)}.",
            reason="INPUT_MISSING",
        )
    if not model.interface.batched:
        return 1
    counts = {one.shape[0] for one in declared}
    if len(counts) > 1:
        raise InvalidRequestError(
            f"the inputs have {', '.join(map(str, sorted(counts)))} rows; give all as many.",
            reason="INPUT_MISMATCH",
        )
    (count,) = counts
    if not count:
        raise InvalidRequestError("the request has no images; send at least one.", reason="NO_IMAGES")
    if count > max_images:
        raise InvalidRequestError(
            f"the request has {count} images or rows, but at most {max_images} are taken; split it into several.",
            reason="TOO_MANY_IMAGES",
        )
    return count


def check_outputs(model: ServedModel, wanted: Sequence[Wanted]) -> Sequence[Wanted]:
    """Checks the outputs that are asked for; none means all that are computed anyway.

    Raises:
        InvalidRequestError: One is unknown, there twice, or holds nothing to name classes by.
    """
    specs = model.interface.outputs
    if not wanted:
        return [Wanted(name) for name in specs if name not in model.interface.extra_outputs]
    for one in wanted:
        spec = specs.get(one.name)
        if spec is None:
            raise InvalidRequestError(
                f"model '{model.name}' has no output '{one.name[:128]}'; it gives {_listed(specs)}.",
                reason="OUTPUT_UNKNOWN",
            )
        if not 0 <= one.top_k <= _MOST_CLASSES or (one.top_k and spec.datatype in (BYTES, "BOOL")):
            raise InvalidRequestError(
                f"output '{one.name}' is asked for as {one.top_k} classes; give 1 to {_MOST_CLASSES}, for an "
                "output of numbers.",
                reason="CLASSIFICATION_INVALID",
            )
    if len({one.name for one in wanted}) < len(wanted):
        raise InvalidRequestError("an output is asked for twice; name each once.", reason="OUTPUT_TWICE")
    return wanted


def output_bytes(model: ServedModel, wanted: Sequence[Wanted], count: int, max_bytes: int) -> int:
    """What the outputs of so many images take.

    Raises:
        InvalidRequestError: They take more than a reply may.
    """
    image_bytes = sum(row_bytes(model.interface.outputs[one.name], one.top_k) for one in wanted)
    if count * image_bytes > max_bytes:
        raise InvalidRequestError(
            f"the outputs would take {count * image_bytes} bytes, more than {max_bytes}; send fewer images, or ask for "
            "fewer outputs.",
            reason="REPLY_TOO_LARGE",
        )
    return count * image_bytes


def check_output_bytes(outputs: Mapping[str, Array], max_bytes: int) -> None:
    """Refuses outputs that take more than a reply may, of sizes that were known only when the network had run.

    Raises:
        InvalidRequestError: They do.
    """
    size_bytes = sum(size_of(array) for array in outputs.values())
    if size_bytes > max_bytes:
        raise InvalidRequestError(
            f"the outputs take {size_bytes} bytes, more than {max_bytes}; send fewer rows, or ask for fewer outputs.",
            reason="REPLY_TOO_LARGE",
        )


def works(
    model: ServedModel, inputs: Mapping[str, Array], wanted: Sequence[Wanted], limits: Limits
) -> list[Work] | list[TensorWork]:
    """What the engine is to do for a request whose inputs and outputs were checked.

    Raises:
        InvalidRequestError: A threshold is out of its range, or an image cannot be read.
    """
    if model.task is not Task.TENSOR:
        return _images(model, inputs, wanted, limits)
    if not model.interface.batched:
        return [TensorWork(inputs, None)]
    return [TensorWork(inputs, row) for row in range(len(next(iter(inputs.values()))))]


def _images(
    model: ServedModel, inputs: Mapping[str, Array], wanted: Sequence[Wanted], limits: Limits
) -> list[Work]:
    images = inputs[contract.IMAGES]
    encoded = images.dtype == DTYPES[BYTES]
    if encoded:
        images = images.ravel()
    count = len(images)
    detect = model.manifest.detect
    scores = _thresholds(inputs, contract.SCORE_THRESHOLD, detect.default_score_threshold, count)
    overlaps = _thresholds(inputs, contract.IOU_THRESHOLD, detect.nms_iou_threshold, count)
    if len(set(overlaps)) > 1:
        raise InvalidRequestError(
            "the images have several values of iou_threshold, of which a network takes one at a time; send those of "
            "each value in a request of their own.",
            reason="IOU_THRESHOLD_MIXED",
        )
    names = tuple(one.name for one in wanted)
    extra = model.interface.extra_outputs.intersection(names)
    share = limits.max_reply_bytes // count
    made = []
    options: TensorOptions | None = None
    for number in range(count):
        try:
            image: Opened = (
                open_encoded(images[number], max_pixels=limits.max_image_pixels)
                if encoded
                else InputPixels(images[number])
            )
            boxes = _regions(inputs[contract.REGIONS][number]) if detect.max_regions else None
        except ImageError as error:
            raise _of_image(number, error) from None
        if options is None or options.score_threshold != scores[number]:
            options = TensorOptions(names, extra, scores[number], overlaps[0], max_picture_bytes=share)
        made.append(Work(image, options, boxes))
    return made


def outputs(
    model: ServedModel, outcomes: Sequence[Outcome[Answer]], wanted: Sequence[Wanted]
) -> dict[str, Array]:
    """The outputs of a request, by name, each with a row for each image.

    Raises:
        RetinueError: An image has none: then no other has.
    """
    rows: list[TensorRows] = []
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome.value, ImageError):
            raise _of_image(number, outcome.value)
        if isinstance(outcome.value, RetinueError):
            raise outcome.value
        assert isinstance(outcome.value.result, TensorRows)
        rows.append(outcome.value.result)
    if not model.interface.batched:
        (row,) = rows
        return {one.name: _as_asked(row, one, ()) for one in wanted}
    labels = model.manifest.labels if model.manifest.task == pb.TASK_CLASSIFY else ()
    return {one.name: stacked([_as_asked(row, one, labels) for row in rows]) for one in wanted}


def _as_asked(row: TensorRows, wanted: Wanted, labels: Sequence[str]) -> Array:
    values = row.arrays[wanted.name]
    return classification(values, labels, wanted.top_k) if wanted.top_k else values


def _regions(given: Array) -> regions.Regions:
    """The regions of one image, without the rows of zeros that stand for none."""
    boxes = given[given.any(axis=1)]
    regions.check_count(len(boxes), len(given))
    return regions.checked([tuple(box) for box in boxes.tolist()])


def _thresholds(inputs: Mapping[str, Array], name: str, default: float, count: int) -> list[float]:
    if name not in inputs:
        return [default] * count
    values = inputs[name].ravel()
    # NaN fails both comparisons.
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidRequestError(f"a {name} is outside of [0, 1].", reason=f"{name.upper()}_OUT_OF_RANGE")
    return list(values.astype(np.float64).tolist())


def _of_image(number: int, error: ImageError) -> InvalidRequestError:
    return InvalidRequestError(f"image {number}: {error.message}", reason=error.reason)


def row_bytes(spec: TensorSpec, top_k: int = 0) -> int:
    """What an output takes for each image: all of its values, or the names of so many classes."""
    # What a graph leaves open is known only when it has run.
    elements = math.prod(size for size in spec.shape[1:] if size > 0)
    return min(top_k, elements) * _CLASS_BYTES if top_k else elements * DTYPES[spec.datatype].itemsize


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(
        f"'{name}' {spec}{' (optional)' if spec.optional else ''}" for name, spec in specs.items()
    )
