"""Models, and requests of tensors for them, for tests."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from retinue.v1 import manifest_pb2
from tests.unit.server.served import served_model

from retinue_server.batching.tickets import Outcome
from retinue_server.catalog import ServedModel
from retinue_server.inference import Declared, Limits
from retinue_server.interface import of_bundle
from retinue_server.results import Answer, Task, TensorRows
from retinue_server.tensors import BYTES, DTYPES, Array

HEIGHT, WIDTH = 32, 64
PIXELS = (HEIGHT, WIDTH, 3)
MOST_IMAGES = 8
LIMITS = Limits(max_images=MOST_IMAGES, max_image_pixels=10_000, max_reply_bytes=1000)
IMAGES = Declared("images", "UINT8", (2, *PIXELS))
ENCODED = Declared("images", BYTES, (2,))


def bundle_model(name: str, version: int = 1, **options: Any) -> ServedModel:
    """As `served_model`, but of a manifest that says how images are resized."""
    model = served_model(name, version, **options)
    model.manifest.input.resize.mode = manifest_pb2.RESIZE_MODE_STRETCH
    model.manifest.input.resize.interpolation = manifest_pb2.INTERPOLATION_BILINEAR
    return model


def classifier(labels: Sequence[str] = ("red", "green")) -> ServedModel:
    model = bundle_model("a-model", 3, labels=labels)
    model.manifest.classify.heatmap_height = model.manifest.classify.heatmap_width = 7
    rows = {"probabilities": (DTYPES["FP32"], (2,)), "heatmap": (DTYPES["FP32"], (7, 7))}
    return replace(model, interface=of_bundle(model.manifest, rows))


def detector(*, max_regions: int = 0) -> ServedModel:
    model = bundle_model("a-detector", task=Task.DETECT)
    detect = model.manifest.detect
    detect.max_detections, detect.adjustable_thresholds, detect.max_regions = 10, True, max_regions
    detect.default_score_threshold, detect.nms_iou_threshold = 0.25, 0.5
    rows = {"boxes": (DTYPES["FP32"], (10, 4)), "scores": (DTYPES["FP32"], (10,))}
    return replace(model, interface=of_bundle(model.manifest, rows))


def pixels(count: int = 2) -> Array:
    return np.arange(count, dtype=np.uint8).repeat(math.prod(PIXELS)).reshape(count, *PIXELS)


def objects(*elements: bytes) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def floats(*values: Any) -> Array:
    return np.array(values, np.float32)


def outcome(**arrays: Array) -> Outcome[Answer]:
    return Outcome(Answer(TensorRows(arrays), 0.0, 0.0, 0.0, batch_size=1), 0.0)
