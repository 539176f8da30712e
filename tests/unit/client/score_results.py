"""Results as servers give them, for tests of what a job makes of them."""

import numpy as np

from retinue_client._classification import Classification, ClassScore
from retinue_client._detections import Detections
from retinue_client._models import ModelInfo, Quality
from retinue_client._segmentation import ClassArea, Segmentation
from retinue_client._timing import Timing

TIMING = Timing(1500, 200, 6000, 100, 8100, 4)


def classification(*classes):
    """A classifier's answer, of pairs of label and score; version 3."""
    scores = tuple(ClassScore(0, label, score) for label, score in classes)
    return Classification(scores, "a-model", 3, TIMING)


DETECTIONS = Detections(
    boxes=np.array([[1, 2, 11, 22], [5, 6, 30, 20]], np.float32),
    scores=np.array([0.92, 0.5], np.float32),
    class_ids=np.array([2, 0], np.int32),
    labels=("cat", "bag"),
    image_width=64,
    image_height=48,
    model="a-model",
    version=3,
    timing=TIMING,
)
# The cat is the right quarter.
SEGMENTATION = Segmentation(
    width=12,
    height=8,
    areas=(ClassArea(0, "background", 72), ClassArea(1, "cat", 24)),
    mask_format="raw",
    mask_size="original",
    encoded=np.repeat(np.arange(2, dtype=np.uint8), [9, 3])[None].repeat(8, axis=0).tobytes(),
    rle_masks=(),
    model="a-model",
    version=3,
    timing=TIMING,
)
MODEL = ModelInfo(
    name="a-model",
    version=3,
    task="classify",
    description="Tells cats from dogs.",
    labels=("cat", "dog"),
    input_height=224,
    input_width=224,
    colour="rgb",
    precision="fp32",
    quality=(Quality("top1_accuracy", 0.75, "a set", 1000, "fp32", "onnxruntime"),),
    architecture="a.network",
    licence="Apache-2.0",
    sha256="0" * 64,
    created_at="2026-01-01T00:00:00Z",
    default_score_threshold=None,
    max_detections=None,
    max_regions=0,
    gives_masks=False,
    keypoint_names=(),
    adjustable_thresholds=False,
    gives_heatmaps=False,
    background_class_id=None,
    provider="CPUExecutionProvider",
    requested_provider="auto",
    fallback_reason="",
    runtime_version="1.31.1",
    max_batch_size=8,
    instances=1,
    threads_per_instance=1,
    memory_bytes=0,
    weights_bytes=0,
    arena_bytes=0,
    buffers_bytes=0,
    images_per_second=100.0,
    lone_image_us=0,
    alone_on_all_cores=False,
    version_labels=(),
    traffic_percent=None,
    sticky_key="",
    shadow_percent=0,
    steps=(),
)
