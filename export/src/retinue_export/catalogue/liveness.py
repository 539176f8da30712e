"""Makes a freshly built network answer something, so that comparing its answers says something.

As built, torchvision's ViT answers 0 to everything, since its head starts at zero; GoogLeNet answers all images alike;
EfficientNet's answers are near 1e-14 and Inception's near 1e11, since their normalisation layers have seen no image;
the blocks of a ConvNeXt count for a millionth. Graphs that are wrong in many ways would agree with each of them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retinue_export.torchvision_detectors import Dense, DenseByLevel, DenseFcos, DenseSsd

ANSWER_DEVIATION = 3.0
"""Standard deviation between images of each logit."""
_NEGLIGIBLE = 0.01
"""A constant factor below this lets a branch count for nothing."""
_FACTORS, _BIASES = (0.1, 0.4), (0.0, 0.4)
"""Between these lie the factors and biases that are drawn anew. So small that what comes round a block counts for more
than what comes through it, and such that rectifiers cut off a fifth and not half of what they take: else differences of
rounding grow from block to block, to 3e-4 in ResNet-152, and one odd image drowns the others."""


@torch.no_grad()
def enliven(network: nn.Module, images: Tensor) -> None:
    """Gives weights in place that let answers depend on the image, and on every layer.

    Constant weights are drawn at random, the statistics of normalisation layers become those of the images, and the
    last layer is scaled and shifted.

    Args:
        network: in evaluation mode, returns logits [N,K] or [N,K,h,w]; its seed is torch's own.
        images: float32 [N,C,H,W], two or more that differ, as the network takes them.
    """
    for name, parameter in network.named_parameters():
        _redraw_if_constant(name, parameter)
    _take_statistics(network, images)
    _spread_answers(network, images)


def _redraw_if_constant(name: str, parameter: nn.Parameter) -> None:
    value = parameter.flatten()[0].item()
    if (parameter != value).any():
        return
    if value == 0 and name.endswith("bias"):
        parameter.uniform_(*_BIASES)
    elif value == 0 and parameter.ndim >= 2:
        parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
    elif abs(value) < _NEGLIGIBLE or value == 1:
        parameter.uniform_(*_FACTORS)


def _take_statistics(network: nn.Module, images: Tensor) -> None:
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what is seen
        norm.train()
    network(images)
    for norm in norms:
        norm.eval()


def _spread_answers(network: nn.Module, images: Tensor) -> None:
    """Brings each logit to mean 0, and to a deviation that leaves the softmax neither flat nor saturated."""
    with _layers_run(network) as ran:
        logits = network(images)
    heads = [layer for layer, _ in ran if _channels(layer) == logits.shape[1]]
    if not heads:
        return
    means = logits.transpose(0, 1).flatten(1).mean(dim=1)
    scale = ANSWER_DEVIATION / (logits.movedim(1, -1) - means).std().clamp(min=1e-30)
    # Layers after the last bias only enlarge its map, or add to it.
    biased = next((layer for layer in reversed(heads) if layer.bias is not None), None)
    last = heads[-1]
    if biased is not None:
        assert biased.bias is not None
        biased.bias -= means
    elif isinstance(last, nn.Linear):
        # Without a bias, what all images have in common is taken out of the weights.
        shared = next(mean for layer, mean in reversed(ran) if layer is last)
        last.weight -= torch.outer(means, shared) / shared.square().sum()
    last.weight *= scale
    if last is biased:
        last.bias *= scale


@dataclass(frozen=True, slots=True)
class _Spread:
    """How the answers of a layer are to be distributed."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class _Heads:
    """How what a detector says of its anchors is to be distributed, so that some of it is found.

    Attributes:
        classes: the logits of its classes.
        background: likewise of the background, added to the mean.
        boxes: what is said of boxes, and, in FCOS, of how near their middles are.
    """

    classes: _Spread
    background: float
    boxes: _Spread


_DETECTOR_HEADS: dict[type[Dense], _Heads] = {
    DenseByLevel: _Heads(_Spread(-6, 1), 0, _Spread(0, 0.3)),
    DenseFcos: _Heads(_Spread(-4.5, 1), 0, _Spread(1.5, 0.5)),
    DenseSsd: _Heads(_Spread(0, 2.5), 9, _Spread(0, 1.5)),
}


@torch.no_grad()
def enliven_detector(dense: Dense, images: Tensor) -> None:
    """Does for a detector what `enliven` does: some of its boxes have scores that count, and differ from its anchors.

    Args:
        dense: in evaluation mode.
        images: float32 [N,3,H,W], two or more that differ, as the network takes them.
    """
    for name, parameter in dense.named_parameters():
        _redraw_if_constant(name, parameter)
    _take_statistics(dense, images)
    wanted = _DETECTOR_HEADS[type(dense)]
    head = dense.detector.head
    for layer in _last_convolutions(head.classification_head):
        _spread(layer, wanted.classes, dense, images)
        assert layer.bias is not None
        layer.bias.view(-1, dense.classes)[:, 0] += wanted.background
    for layer in _last_convolutions(head.regression_head):
        _spread(layer, wanted.boxes, dense, images)


def _last_convolutions(part: nn.Module) -> list[nn.Conv2d]:
    """Those that say something of anchors: of all levels one, or of each level one."""
    levels = getattr(part, "module_list", None)
    if isinstance(levels, nn.ModuleList):
        return [[one for one in level.modules() if isinstance(one, nn.Conv2d)][-1] for level in levels]
    return [child for child in part.children() if isinstance(child, nn.Conv2d)]


def _spread(layer: nn.Conv2d, wanted: _Spread, network: nn.Module, images: Tensor) -> None:
    """Scales and shifts a layer, so that its answers have one mean and one deviation, over all channels."""
    answers: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _inputs, answer: answers.append(answer.flatten()))
    network(images)
    hook.remove()
    deviation, mean = torch.std_mean(torch.cat(answers))
    assert layer.bias is not None
    scale = wanted.deviation / deviation
    layer.weight *= scale
    layer.bias.copy_((layer.bias - mean) * scale + wanted.mean)


Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def _channels(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@contextmanager
def _layers_run(network: nn.Module) -> Iterator[list[tuple[Layer, Tensor]]]:
    """Notes the layers with weights in the order in which they run, each with the mean over images of what it takes."""
    layers: list[tuple[Layer, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _answer: object) -> None:
        assert isinstance(layer, Layer)
        layers.append((layer, inputs[0].mean(dim=0)))

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, Layer)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()
