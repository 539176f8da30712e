"""Graphs whose layers compute in 8-bit integers, by ranges of values measured on real images."""

import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from retinue_export import graph, trunk
from retinue_export.errors import ExportError
from retinue_export.inputs import Uint8
from retinue_export.parity import Feeds

METHOD = (
    "static, QDQ: weights int8, symmetric, per channel; activations uint8, from the mean over the images of each one's "
    "smallest value to that of each one's largest"
)
_OPERATORS = (
    *("Conv", "Gemm", "MatMul"),
    *("Add", "Mul", "Concat", "Relu", "Clip", "LeakyRelu"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
)
"""What ONNX Runtime computes faster, or at no cost, in 8 bits."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A graph in 8-bit integers.

    Attributes:
        model: see there.
        float_nodes: names of the nodes of the original graph that still compute in floating point.
    """

    model: onnx.ModelProto
    float_nodes: list[str]


def to_int8(model: onnx.ModelProto, images: Uint8, feeds: Feeds) -> Quantised:
    """Quantises what lies between a graph's layers; the rest stays in floating point.

    Ranges reach from the mean of the images' minima to the mean of their maxima: single images of extreme values would
    else make the steps coarse for all.

    Args:
        model: in floating point; stays as it is.
        images: uint8 [N,H,W,C], prepared, like those that the network will see.
        feeds: what the graph takes beside them.

    Raises:
        ExportError: the graph has no layers, or cannot be quantised.
    """
    if not trunk.layers(model):
        raise ExportError("The network has no layer with weights (Conv, Gemm or MatMul) to quantise.")
    try:
        # The quantiser logs what it warns everyone of, and prints.
        with tempfile.TemporaryDirectory() as folder, graph.quiet(), redirect_stdout(io.StringIO()):
            plain, prepared, quantised = (Path(folder) / f"{number}.onnx" for number in range(3))
            onnx.save(model, plain)
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            optimised = onnx.load(prepared)
            kept = trunk.outside(optimised) | _products(optimised)
            quantize_static(
                prepared,
                quantised,
                _Reader(images, feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=sorted(kept),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "CalibMovingAverage": True,
                    # A classifier's logits stay as the layer adds them up.
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],
                },
            )
            made = onnx.load(quantised)
        graph.strip(made)
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # the quantiser has no errors of its own
        raise ExportError(
            f"The network cannot be quantised: {graph.first_line(error)}. Export it with another --precision."
        ) from error
    float_nodes = _float_nodes(made, {node.name for node in optimised.graph.node}, kept)
    if {node.name for node in trunk.layers(optimised)} <= set(float_nodes):
        raise ExportError("The quantiser found no layer of the network that it can bring to INT8.")
    return Quantised(made, float_nodes)


def _products(model: onnx.ModelProto) -> set[str]:
    """The names of the products of two activations, as in attention: 8 bits are too few for both sides."""
    layers = {node.name for node in trunk.layers(model)}
    return {node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in layers}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands over one image after the other, so that the memory needed does not grow with their number."""

    def __init__(self, images: Uint8, feeds: Feeds) -> None:
        self._feeds = ({"images": image[np.newaxis], **feeds(image[np.newaxis])} for image in images)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._feeds, None)


def _float_nodes(quantised: onnx.ModelProto, original: set[str], kept: set[str]) -> list[str]:
    """The original nodes that compute in float: kept so, without an 8-bit form, or fed with no dequantised values."""
    dequantised = {
        output
        for node in quantised.graph.node
        if node.op_type == "DequantizeLinear"
        for output in node.output
    }
    return [
        node.name
        for node in quantised.graph.node
        if node.name in original
        and (node.name in kept or node.op_type not in _OPERATORS or dequantised.isdisjoint(node.input))
    ]
