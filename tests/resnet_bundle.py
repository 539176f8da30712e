"""A bundle of ResNet-50's size: its layers with made-up weights, so that no test needs PyTorch or a download for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests import colour_bundles, odd_bundles

_SIDE = 224
_CLASSES = 1000
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


class _Layers:
    """Nodes and weights, as they come to be."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(0)
        self._names: Iterator[str] = (f"value_{number}" for number in range(10_000))

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Adds a node; returns the name of its output."""
        output = output or next(self._names)
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        name = next(self._names)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, *shape: int) -> str:
        """Adds random weights that keep the size of activations, stored in 16 bits; returns their name."""
        bound = (3 / np.prod(shape[1:])) ** 0.5
        values = (self._random.random(shape, np.float32) * 2 - 1) * bound
        return self.add("Cast", self.constant(values.astype(np.float16)), to=TensorProto.FLOAT)

    def convolution(self, value: str, channels: tuple[int, int], side: int = 1, stride: int = 1) -> str:
        """Adds a convolution with a bias, which is what normalisation of a batch comes to in the end."""
        weight = self.weight(channels[1], channels[0], side, side)
        bias = self.weight(channels[1])
        return self.add("Conv", value, weight, bias, strides=[stride] * 2, pads=[side // 2] * 4)

    def block(self, value: str, channels: int, width: int, stride: int) -> str:
        """Adds a bottleneck."""
        inner = self.add("Relu", self.convolution(value, (channels, width)))
        inner = self.add("Relu", self.convolution(inner, (width, width), 3, stride))
        inner = self.convolution(inner, (width, 4 * width))
        if channels != 4 * width:
            value = self.convolution(value, (channels, 4 * width), stride=stride)
        return self.add("Relu", self.add("Add", inner, value))


def resnet_50(models: Path, name: str = "resnet-50") -> Path:
    """Writes it: 25.6 million weights, a file of 51 MB that takes 102 MB in use."""
    layers = _Layers()
    value = layers.add("Cast", "images", to=TensorProto.FLOAT)
    value = layers.add("Div", value, layers.constant(np.array(255, np.float32)))
    value = layers.add("Transpose", value, perm=[0, 3, 1, 2])
    value = layers.add("Relu", layers.convolution(value, (3, 64), 7, 2))
    value = layers.add("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (blocks, width) in enumerate(_STAGES):
        for block in range(blocks):
            value = layers.block(value, channels, width, stride=2 if stage and not block else 1)
            channels = 4 * width
    value = layers.add("Flatten", layers.add("GlobalAveragePool", value))
    value = layers.add("Gemm", value, layers.weight(_CLASSES, channels), transB=1)
    layers.add("Softmax", value, output="probabilities", axis=1)

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", _SIDE, _SIDE, 3])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _CLASSES])
    graph = helper.make_graph(layers.nodes, name, [images], [answer], layers.weights)
    opset = helper.make_opsetid("", colour_bundles.OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)

    bundle = colour_bundles.classifier(models, name)
    taken = json.loads((bundle / "manifest.json").read_text())["input"]
    colour_bundles.rewrite_manifest(
        bundle,
        input={**taken, "height": _SIDE, "width": _SIDE},
        labels=[f"class {number}" for number in range(_CLASSES)],
        precision="PRECISION_FP16_WEIGHTS",
    )
    return odd_bundles.replace_model(bundle, model.SerializeToString())
