"""A foreign graph between what makes pixels of bytes and what makes answers of its outputs: the graph of a bundle."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, version_converter

from retinue_export import graph
from retinue_export.adoption import batch
from retinue_export.adoption.heads import Head
from retinue_export.adoption.reading import Foreign, opset
from retinue_export.errors import ExportError
from retinue_export.graph import first_line
from retinue_export.nodes import Builder
from retinue_export.packaging import Normalisation
from retinue_export.subgraph import needed
from retinue_server.vision.spec import InputSpec

PREFIX = "original."
"""Put before every name of the foreign graph, so that none is also a name of the contract."""
_LEAST_OPSET = 13
_LEAST_IR_VERSION = 8
"""Older ones list weights among the inputs."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a foreign graph wants to be fed with.

    Attributes:
        spec: how images are prepared.
        normalisation: what is done to their levels; values in the order of the network's channels.
        reversed_channels: whether it takes blue, green, red.
    """

    spec: InputSpec
    normalisation: Normalisation
    reversed_channels: bool = False

    def prepare(self, images: NDArray[np.uint8], channels_first: bool) -> NDArray[np.float32]:
        """Does in NumPy what the nodes before the graph do.

        Args:
            images: uint8 [N,H,W,C].
            channels_first: whether the result is [N,C,H,W] instead of [N,H,W,C].
        """
        levels = images[..., ::-1] if self.reversed_channels else images
        mean = np.array(self.normalisation.mean, np.float32)
        deviation = np.array(self.normalisation.deviation, np.float32)
        pixels = (levels.astype(np.float32) / np.float32(255) - mean) / deviation
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if channels_first else pixels)


def wrap(foreign: Foreign, pixels: Pixels, head: Head) -> ModelProto:
    """Makes the graph of a bundle.

    Raises:
        ExportError: the file's operator set is too old, and cannot be converted.
    """
    model = _converted(foreign)
    batch.release(model, foreign, pixels.spec)
    onnx.compose.add_prefix(model, PREFIX, rename_functions=False, inplace=True)
    _feed(model, foreign, pixels)
    head.append(model, PREFIX, foreign.image.kind == TensorProto.FLOAT16)
    _prune(model.graph)
    graph.strip(model)
    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    return model


def _converted(foreign: Foreign) -> ModelProto:
    """A copy of the graph, of an operator set that the added nodes are written in."""
    version = opset(foreign.model)
    if version >= _LEAST_OPSET:
        model = ModelProto()
        model.CopyFrom(foreign.model)
        return model
    try:
        return version_converter.convert_version(foreign.model, _LEAST_OPSET)
    except Exception as error:  # ONNX's converter is C++ and raises what it likes
        raise ExportError(
            f"{foreign.path} uses operator set {version}, which cannot be converted to {_LEAST_OPSET}: "
            f"{first_line(error)}. Export it again with opset {_LEAST_OPSET} or later."
        ) from error


def _feed(model: ModelProto, foreign: Foreign, pixels: Pixels) -> None:
    """Puts before the graph what makes its inputs of `images`, uint8 [N,H,W,C]."""
    spec, body = pixels.spec, model.graph
    before = GraphProto()
    builder = Builder(before, "images.prepared")
    levels = "images"
    if pixels.reversed_channels:
        order = builder.constant("blue_green_red", np.array([2, 1, 0], np.int64))
        levels = builder.add("Gather", levels, order, axis=3)
    if foreign.channels_first:
        levels = builder.add("Transpose", levels, perm=[0, 3, 1, 2])
    result = PREFIX + foreign.image.name
    if foreign.image.kind == TensorProto.FLOAT16:
        _look_up(builder, levels, foreign, pixels, result)
    else:
        _normalise(builder, levels, foreign, pixels, result)
    for mask in foreign.masks:
        _add_mask(builder, body, mask.name, mask.kind)
    nodes = [*before.node, *body.node]
    del body.node[:]
    body.node.extend(nodes)
    body.initializer.extend(before.initializer)
    del body.input[:]
    shape: list[int | str] = [batch.BATCH, spec.height, spec.width, spec.channels]
    body.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, shape))


def _normalise(builder: Builder, levels: str, foreign: Foreign, pixels: Pixels, result: str) -> None:
    """Computes float32 of bytes."""
    values = builder.add("Cast", levels, to=TensorProto.FLOAT)
    shape = _per_channel(foreign)
    mean = np.array(pixels.normalisation.mean, np.float64).reshape(shape)
    deviation = np.array(pixels.normalisation.deviation, np.float64).reshape(shape)
    if not mean.any():  # exactly what dividing in NumPy gives
        divisor = builder.constant("range", (255 * deviation).astype(np.float32))
        builder.add("Div", values, divisor, result=result)
        return
    scaled = builder.add("Mul", values, builder.constant("scale", (1 / (255 * deviation)).astype(np.float32)))
    offset = builder.constant("offset", (-mean / deviation).astype(np.float32))
    builder.add("Add", scaled, offset, result=result)


def _look_up(builder: Builder, levels: str, foreign: Foreign, pixels: Pixels, result: str) -> None:
    """Finds the float16 of each byte in a table: a runtime may leave out the rounding of what is computed."""
    channels = pixels.spec.channels
    every = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1), (1, 1, 256, channels))
    table = pixels.prepare(every, channels_first=True).reshape(-1).astype(np.float16)
    first = (256 * np.arange(channels, dtype=np.int32)).reshape(_per_channel(foreign))
    places = builder.add(
        "Add", builder.add("Cast", levels, to=TensorProto.INT32), builder.constant("first", first)
    )
    builder.add("Gather", builder.constant("table", table), places, axis=0, result=result)


def _per_channel(foreign: Foreign) -> tuple[int, ...]:
    """The shape of one value a channel."""
    return (-1, 1, 1) if foreign.channels_first else (-1,)


def _add_mask(builder: Builder, body: GraphProto, name: str, kind: int) -> None:
    """Ones: no pixel is padding."""
    (value,) = [entry for entry in body.input if entry.name == PREFIX + name]
    sides = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:]]
    ends = [builder.constant(f"{name}.end_{end}", np.array([end], np.int64)) for end in (0, 1)]
    count = builder.add("Slice", builder.add("Shape", "images"), *ends)
    shape = builder.add("Concat", count, builder.constant(f"{name}.sides", np.array(sides, np.int64)), axis=0)
    one = helper.make_tensor("one", kind, [1], [1])
    builder.add("ConstantOfShape", shape, value=one, result=PREFIX + name)


def _prune(body: GraphProto) -> None:
    """Drops nodes and weights that no output needs."""
    kept, names = needed(body, [output.name for output in body.output])
    del body.node[:]
    body.node.extend(kept)
    weights = [tensor for tensor in body.initializer if tensor.name in names]
    del body.initializer[:]
    body.initializer.extend(weights)
