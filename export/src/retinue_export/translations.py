"""What PyTorch's exporter cannot translate to ONNX by itself, or translates wrongly."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision.ops  # noqa: F401 (defines the operators that are named here)
from onnxscript import opset18 as op


def _roi_pool(
    maps: Any, rois: Any, spatial_scale: float, pooled_height: int, pooled_width: int
) -> tuple[Any, Any]:
    """The pooling of Fast R-CNN; the second answer, where each maximum was found, is for training only."""
    pooled = op.MaxRoiPool(
        maps, rois, pooled_shape=(pooled_height, pooled_width), spatial_scale=spatial_scale
    )
    return pooled, pooled


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.torchvision.roi_pool.default: _roi_pool,
}
"""How to write operators of PyTorch in ONNX, as `torch.onnx.export` takes it."""
