from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from retinue.v1 import manifest_pb2 as pb

from retinue_server import postprocess
from retinue_server.errors import ImageError
from retinue_server.results import (
    Classification,
    ClassifyOptions,
    DetectionList,
    DetectOptions,
    MaskFormat,
    Segmentation,
    SegmentOptions,
)
from retinue_server.vision.resize import frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode

SIDE = 16
WIDTH, HEIGHT = 200, 100
FRAME = frame_for(WIDTH, HEIGHT, InputSpec(SIDE, SIDE, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR))
_NOISE = np.random.default_rng(0)
OUTPUTS = {
    "probabilities": np.array([[0.25, 0.75]], np.float32),
    "heatmap": _NOISE.random((1, 8, 8), np.float32),
    "boxes": np.tile(np.array([0, 0, SIDE, SIDE], np.float32), (1, 3, 1)),
    "scores": np.full((1, 3), 0.9, np.float32),
    "classes": np.zeros((1, 3), np.int32),
    "masks": _NOISE.random((1, 3, 8, 8), np.float32),
    "class_map": _NOISE.integers(0, 2, (1, SIDE, SIDE), np.uint8),
}


def heatmap_bytes(most: int) -> int:
    options = ClassifyOptions(1, 0, heatmap=True, max_picture_bytes=most)
    made = postprocess.for_manifest(pb.ModelManifest(task=pb.TASK_CLASSIFY))(OUTPUTS)(0, FRAME, options)
    assert isinstance(made, Classification)
    return len(made.heatmap or b"")


def instance_mask_bytes(most: int) -> int:
    options = DetectOptions(0.5, 3, None, 0.5, masks=True, max_picture_bytes=most)
    manifest = pb.ModelManifest(task=pb.TASK_DETECT, labels=["red"])
    made = postprocess.for_manifest(manifest)(OUTPUTS)(0, FRAME, options)
    assert isinstance(made, DetectionList)
    return sum(map(len, made.masks or ()))


def class_map_bytes(mask_format: MaskFormat) -> Callable[[int], int]:
    def make(most: int) -> int:
        options = SegmentOptions(mask_format, True, None, max_picture_bytes=most)
        manifest = pb.ModelManifest(task=pb.TASK_SEGMENT, labels=["red", "green"])
        manifest.segment.background_class_id = -1
        made = postprocess.for_manifest(manifest)(OUTPUTS)(0, FRAME, options)
        assert isinstance(made, Segmentation)
        mask = made.mask
        return len(mask) if isinstance(mask, bytes) else sum(len(counts) for _, counts in mask)

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (heatmap_bytes, "REPLY_TOO_LARGE"),
        (instance_mask_bytes, "MASKS_TOO_LARGE"),
        (class_map_bytes(MaskFormat.PNG), "REPLY_TOO_LARGE"),
        (class_map_bytes(MaskFormat.COCO_RLE), "REPLY_TOO_LARGE"),
    ],
)
def test_an_image_whose_masks_or_heatmap_take_more_than_its_share_fails(
    make: Callable[[int], int], reason: str
) -> None:
    size = make(10**6)
    assert make(size) == size > 100
    with pytest.raises(ImageError, match="or fewer at once") as refused:
        make(size - 1)
    assert refused.value.reason == reason


def test_raw_masks_are_measured_before_they_are_made() -> None:
    assert class_map_bytes(MaskFormat.RAW)(0) == WIDTH * HEIGHT


@pytest.mark.parametrize(("keypoints", "entries"), [(0, 3), (2, 9)])
def test_what_a_reply_has_to_tell_is_counted(keypoints: int, entries: int) -> None:
    points = np.zeros((3, keypoints, 3), np.float32) if keypoints else None
    boxes, scores, class_ids = np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.zeros(3, np.int32)
    assert DetectionList(boxes, scores, class_ids, 1, 1, keypoints=points).entries == entries
