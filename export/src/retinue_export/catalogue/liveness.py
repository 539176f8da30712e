"""Makes a freshly built network answer something, so that comparing its answers says something.

As built, torchvision's ViT answers 0 to everything, since its head starts at zero; GoogLeNet answers all images alike;
EfficientNet's answers are near 1e-14 and Inception's near 1e11, since their normalisation layers have seen no image;
the blocks of a ConvNeXt count for a millionth. Graphs that are wrong in many ways would agree with each of them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from retinue_export.catalogue.layers import Layer, Spread, answers, spread
from retinue_export.torchvision_detectors.detector import Detector
from retinue_export.torchvision_detectors.single_stage import Dense, DenseByLevel, DenseFcos, DenseSsd
from retinue_export.torchvision_detectors.two_stage import TwoStage

ANSWER_DEVIATION = 3.0
"""Standard deviation between images of each logit."""
_NEGLIGIBLE = 0.01
"""A constant factor below this lets a branch count for nothing."""
_BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d
_FACTORS, _BIASES = (0.5, 1.5), (-0.1, 0.1)
_BATCH_NORM_FACTORS, _BATCH_NORM_BIASES = (0.1, 0.4), (0.0, 0.4)
"""Between these lie the factors and biases that are drawn anew. Those of batch normalisation so small that what comes
round a block counts for more than what comes through it, and such that rectifiers cut off a fifth and not half of what
they take: else differences of rounding grow from block to block, to 3e-4 in ResNet-152, and one odd image drowns the
others. After layer normalisation factors as small would let them grow instead, to 1e-4 in a MaxViT."""


@torch.no_grad()
def enliven(network: nn.Module, images: Tensor) -> None:
    """Gives weights in place that let answers depend on the image, and on every layer.

    Constant weights are drawn at random, the statistics of normalisation layers become those of the images, and the
    last layer is scaled and shifted.

    Args:
        network: in evaluation mode, returns logits [N,K] or [N,K,h,w]; its seed is torch's own.
        images: float32 [N,C,H,W], two or more that differ, as the network takes them.
    """
    redraw_constants(network)
    take_statistics(network, partial(network, images))
    _spread_answers(network, images)


def redraw_constants(network: nn.Module) -> None:
    """Draws in place what is the same everywhere and would let a part of the network count for nothing."""
    for part in network.modules():
        is_batch_norm = isinstance(part, _BATCH_NORMS)
        factors, biases = (_BATCH_NORM_FACTORS, _BATCH_NORM_BIASES) if is_batch_norm else (_FACTORS, _BIASES)
        for name, parameter in part.named_parameters(recurse=False):
            value = parameter.flatten()[0].item()
            if (parameter != value).any():
                continue
            if value == 0 and name.endswith("bias"):
                parameter.uniform_(*biases)
            elif value == 0 and parameter.ndim >= 2:
                parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
            elif abs(value) < _NEGLIGIBLE or value == 1:
                parameter.uniform_(*factors)


def take_statistics(network: nn.Module, run: Callable[[], object]) -> None:
    """Lets normalisation layers of a network see what comes when it runs."""
    norms = [part for part in network.modules() if isinstance(part, _BATCH_NORMS)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what is seen
        norm.train()
    run()
    for norm in norms:
        norm.eval()


def _spread_answers(network: nn.Module, images: Tensor) -> None:
    """Brings each logit to mean 0, and to a deviation that leaves the softmax neither flat nor saturated."""
    with _layers_run(network) as layers:
        logits = network(images)
    heads = [layer for layer in layers if _channels(layer) == logits.shape[1]]
    if not heads:
        return
    # Layers after the last bias only enlarge its map, or add to it.
    biased = next((layer for layer in reversed(heads) if layer.bias is not None), None)
    if biased is None:
        # What all images have in common is taken out where there is a bias for it.
        last_biased = next(layer for layer in reversed(layers) if layer.bias is not None)
        answered = answers({"": last_biased}, partial(network, images))[""]
        spread(last_biased, answered, Spread(0, 1))
        logits = network(images)
    means = _means(logits)
    scale = ANSWER_DEVIATION / (logits.movedim(1, -1) - means).std().clamp(min=1e-30)
    if biased is not None:
        assert biased.bias is not None
        biased.bias -= means
    last = heads[-1]
    last.weight *= scale
    if last is biased:
        last.bias *= scale


def _means(answers: Tensor) -> Tensor:
    """The mean of each channel: [K] of [N,K] or [N,K,h,w]."""
    return answers.transpose(0, 1).flatten(1).mean(dim=1)


@dataclass(frozen=True, slots=True)
class _Heads:
    """How what a detector says of its anchors is to be distributed, so that some of it is found.

    Attributes:
        classes: the logits of its classes.
        background: likewise of the background, added to the mean.
        boxes: what is said of boxes, and, in FCOS, of how near their middles are.
    """

    classes: Spread
    background: float
    boxes: Spread


_DETECTOR_HEADS: dict[type[Dense], _Heads] = {
    DenseByLevel: _Heads(Spread(-6, 1), 0, Spread(0, 0.3)),
    DenseFcos: _Heads(Spread(-4.5, 1), 0, Spread(1.5, 0.5)),
    DenseSsd: _Heads(Spread(0, 2.5), 9, Spread(0, 1.5)),
}
_OBJECTNESS = Spread(0, 1)
_REGION_CLASSES = Spread(0, 3)
_REGION_BOXES = Spread(0, 0.3)
_CELLS = Spread(0, 2)
"""Likewise of a two-stage detector: of anchors, of regions, and of the places inside them."""


@torch.no_grad()
def enliven_detector(detector: Detector, images: Tensor) -> None:
    """Does for a detector what `enliven` does: some of its boxes have scores that count, and differ from its anchors.

    Args:
        detector: in evaluation mode.
        images: float32 [N,3,H,W], two or more that differ, as the network takes them.
    """
    redraw_constants(detector)
    if isinstance(detector, TwoStage):
        _enliven_two_stage(detector, images)
    else:
        assert isinstance(detector, Dense)
        _enliven_single_stage(detector, images)


def _enliven_single_stage(dense: Dense, images: Tensor) -> None:
    run = partial(dense, images)
    take_statistics(dense, run)
    wanted = _DETECTOR_HEADS[type(dense)]
    head = dense.detector.head
    for layer in _last_convolutions(head.classification_head):
        _spread(layer, wanted.classes, run)
        assert layer.bias is not None
        layer.bias.view(-1, dense.classes)[:, 0] += wanted.background
    for layer in _last_convolutions(head.regression_head):
        _spread(layer, wanted.boxes, run)


def _enliven_two_stage(network: TwoStage, images: Tensor) -> None:
    """Each part with what the parts before it, live already, give it."""
    detector = network.detector
    rpn, heads = detector.rpn, detector.roi_heads
    run = partial(network.own_answers_to, images)
    take_statistics(detector.backbone, partial(detector.backbone, images))
    _spread(rpn.head.cls_logits, _OBJECTNESS, run)
    _spread(rpn.head.bbox_pred, _REGION_BOXES, run)
    take_statistics(heads.box_head, run)
    _spread(heads.box_predictor.cls_score, _REGION_CLASSES, run)
    heads.box_predictor.cls_score.bias[0] += 1 + math.log(
        network.classes - 1
    )  # more than all classes together
    _spread(heads.box_predictor.bbox_pred, _REGION_BOXES, run)
    if heads.has_mask():
        take_statistics(heads.mask_head, run)
        _spread(heads.mask_predictor.mask_fcn_logits, _CELLS, run)
    if heads.has_keypoint():
        _spread(heads.keypoint_predictor.kps_score_lowres, _CELLS, run)


def _last_convolutions(part: nn.Module) -> list[nn.Conv2d]:
    """Those that say something of anchors: of all levels one, or of each level one."""
    levels = getattr(part, "module_list", None)
    if isinstance(levels, nn.ModuleList):
        return [[one for one in level.modules() if isinstance(one, nn.Conv2d)][-1] for level in levels]
    return [child for child in part.children() if isinstance(child, nn.Conv2d)]


def _spread(layer: nn.Module, wanted: Spread, run: Callable[[], object]) -> None:
    """Scales and shifts a layer, so that its answers have one mean and one deviation.

    Answers to places of an image have them over all channels. Those to regions, which are much alike, have the mean in
    each channel; else all regions would show the same.
    """
    spread(layer, answers({"": layer}, run)[""], wanted, each=isinstance(layer, nn.Linear))


def _channels(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@contextmanager
def _layers_run(network: nn.Module) -> Iterator[list[Layer]]:
    """Notes the layers with weights in the order in which they run."""
    layers: list[Layer] = []

    def note(layer: nn.Module, _inputs: object, _answer: object) -> None:
        assert isinstance(layer, Layer)
        layers.append(layer)

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, Layer)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()
