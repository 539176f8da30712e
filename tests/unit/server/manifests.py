"""Manifests that hold, and why one is refused, for tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from retinue_server.bundle import manifest
from retinue_server.errors import BundleError

SHA256 = "0" * 64


def fields(task: str = "TASK_CLASSIFY", /, **changes: Any) -> dict[str, Any]:
    """A manifest that holds, as JSON; a dot in a name goes one level down, as `__`."""
    valid: dict[str, Any] = {
        "format_version": 1,
        "name": "a-model",
        "task": task,
        "input": {
            "height": 224,
            "width": 160,
            "colour": "COLOUR_RGB",
            "resize": {"mode": "RESIZE_MODE_STRETCH", "interpolation": "INTERPOLATION_BILINEAR"},
        },
        "labels": ["red", "green"],
        "opset": 20,
        "precision": "PRECISION_FP32",
        "sha256": SHA256,
    }
    if task == "TASK_CLASSIFY":
        valid["classify"] = {"heatmap_height": 7, "heatmap_width": 5}
    if task == "TASK_DETECT":
        valid["detect"] = {
            "max_detections": 10,
            "min_score": 0.05,
            "nms_iou_threshold": 0.5,
            "default_score_threshold": 0.4,
            "max_regions": 20,
            "mask_height": 28,
            "mask_width": 14,
            "keypoint_names": ["nose", "left_eye"],
        }
    if task == "TASK_SEGMENT":
        valid["segment"] = {"map_height": 56, "map_width": 40, "background_class_id": -1}
    for path, value in changes.items():
        *groups, name = path.split("__")
        place = valid
        for group in groups:
            place = place[group]
        place[name] = value
    return valid


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def why_refused(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        manifest.read(folder)
    assert str(folder / "manifest.json") in refused.value.message
    assert refused.value.message.endswith(".")
    assert "\n" not in refused.value.message
    return refused.value.message
