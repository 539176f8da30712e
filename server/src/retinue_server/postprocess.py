"""One function a task: from the network's outputs to each caller's result."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from retinue.v1 import manifest_pb2 as pb

from retinue_server.errors import EngineError, ImageError
from retinue_server.results import (
    Classification,
    ClassifyOptions,
    DetectionList,
    DetectOptions,
    MaskFormat,
    Segmentation,
    SegmentOptions,
    TaskResult,
    TensorOptions,
    TensorRows,
)
from retinue_server.vision import classify, detect, heatmap, instance_masks, masks, segment
from retinue_server.vision.resize import Frame

Outputs = Mapping[str, npt.NDArray[Any]]
ResultOfRow = Callable[[int, Frame, Any], TaskResult]
Postprocess = Callable[[Outputs], ResultOfRow]


def for_manifest(manifest: pb.ModelManifest) -> Postprocess:
    """The function of the manifest's task: a batch's outputs -> ((row, frame, options) -> result).

    Whatever the task, `TensorOptions` get the outputs as they are. That of a row raises EngineError where the network
    answers with a class that it does not have, or with what is no probability, and ImageError where masks or a heatmap
    take more bytes than the options allow.
    """
    of_task = _for_task(manifest)
    return lambda outputs: partial(_result, of_task(outputs), outputs)


def _for_task(manifest: pb.ModelManifest) -> Postprocess:
    num_classes = len(manifest.labels)
    if manifest.task == pb.TASK_CLASSIFY:
        return lambda outputs: partial(_classification, classify.Ranking(outputs["probabilities"]), outputs)
    if manifest.task == pb.TASK_DETECT:
        return lambda outputs: partial(_detections, num_classes, outputs)
    named = manifest.segment.background_class_id
    background = None if named < 0 else named
    return lambda outputs: partial(_segmentation, num_classes, background, outputs)


def _result(of_task: ResultOfRow, outputs: Outputs, row: int, frame: Frame, options: Any) -> TaskResult:
    if not isinstance(options, TensorOptions):
        return of_task(row, frame, options)
    # Copied, since a row would keep the whole batch, and may lie where the next one is written.
    arrays = {name: np.array(outputs[name][row]) for name in options.outputs}
    if not frame.shows_the_whole_unscaled:
        if "boxes" in arrays:
            arrays["boxes"] = detect.clipped(arrays["boxes"], frame)
        if "keypoints" in arrays:
            arrays["keypoints"] = detect.keypoints_to_original(arrays["keypoints"], frame)
    return TensorRows(arrays)


def _classification(
    ranking: classify.Ranking, outputs: Outputs, row: int, frame: Frame, options: ClassifyOptions
) -> Classification:
    class_ids, scores = ranking.top_k(row, options.top_k, options.min_score)
    shown = None
    if options.heatmap:
        shown = masks.encode_png(heatmap.to_original(outputs["heatmap"][row], frame))
        _check_size("heatmap", len(shown), options.max_picture_bytes)
    return Classification(class_ids, scores, shown)


def _detections(
    num_classes: int, outputs: Outputs, row: int, frame: Frame, options: DetectOptions
) -> DetectionList:
    boxes = outputs["boxes"][row]
    found = detect.to_original(
        boxes,
        outputs["scores"][row],
        outputs["classes"][row],
        frame,
        score_threshold=options.score_threshold,
        max_detections=options.max_detections,
        class_ids=options.class_ids,
    )
    if found.classes.size and not 0 <= found.classes.min() <= found.classes.max() < num_classes:
        raise EngineError("the model detected a class outside of its labels; its bundle is broken.")
    shown = keypoints = None
    if options.masks:
        small = outputs["masks"][row][found.rows]
        classify.check_probabilities(small)
        whole = detect.unclipped(boxes[found.rows], frame)
        shown = instance_masks.encode(
            small,
            whole,
            frame.original_width,
            frame.original_height,
            max_bytes=options.max_picture_bytes,
        )
    if "keypoints" in outputs:
        keypoints = detect.keypoints_to_original(outputs["keypoints"][row][found.rows], frame)
    return DetectionList(
        found.boxes,
        found.scores,
        found.classes,
        frame.original_width,
        frame.original_height,
        shown,
        keypoints,
    )


def _segmentation(
    num_classes: int,
    background: int | None,
    outputs: Outputs,
    row: int,
    frame: Frame,
    options: SegmentOptions,
) -> Segmentation:
    class_map = segment.checked(outputs["class_map"][row], num_classes)
    wanted = frozenset(range(num_classes)) if options.class_ids is None else options.class_ids
    if options.class_ids is not None:
        class_map = segment.keep_classes(class_map, options.class_ids, background)
    as_rle = options.mask_format is MaskFormat.COCO_RLE
    if options.original_size:
        class_map = segment.to_original(class_map, frame, background=background, order="F" if as_rle else "C")

    areas = segment.class_areas(class_map, num_classes)
    counted = wanted if background is None else wanted | {background}
    present = [(class_id, int(areas[class_id])) for class_id in counted if areas[class_id]]
    mask: bytes | list[tuple[int, bytes]]
    if as_rle:
        mask = masks.encode_coco_rle(class_map, wanted - {background})
        _check_size("mask", sum(len(counts) for _, counts in mask), options.max_picture_bytes)
    elif options.mask_format is MaskFormat.PNG:
        mask = masks.encode_png(class_map)
        _check_size("mask", len(mask), options.max_picture_bytes)
    else:
        mask = masks.encode_raw(class_map, num_classes)
    return Segmentation(
        width=class_map.shape[1],
        height=class_map.shape[0],
        mask_format=options.mask_format,
        mask=mask,
        areas=sorted(present, key=lambda area: (-area[1], area[0])),
    )


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"the {what} takes {size} bytes, more than the {most} that a reply has for each of its images; send a "
            "smaller image, or fewer at once.",
            reason="REPLY_TOO_LARGE",
        )
