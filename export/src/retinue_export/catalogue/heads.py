"""Lets freshly built detectors find something: the layers that speak of objects say it neither always nor never.

What `liveness` is to classifiers and segmenters, whose last layer it finds by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from retinue_export.catalogue.layers import Spread, answers, spread
from retinue_export.catalogue.liveness import redraw_constants, take_statistics


@dataclass(frozen=True, slots=True)
class Head:
    """Some channels of a layer, and how what they say is to be distributed.

    Attributes:
        layer: the layer's name, or a pattern for several.
        mean: of each channel.
        deviation: of all of these channels together.
        first: the first of these channels.
        past: the first that is none any more; by default there is none.
        period: after how many channels both begin anew.
    """

    layer: str
    mean: float
    deviation: float
    first: int = 0
    past: int | None = None
    period: int | None = None


@torch.no_grad()
def enliven_heads(network: nn.Module, heads: Iterable[Head], run: Callable[[], object]) -> None:
    """Gives weights in place that let some boxes have scores that count, and differ between images.

    Args:
        network: in evaluation mode; its seed is torch's own.
        heads: what it says of objects: layers that do not depend on each other, no channel of them twice.
        run: runs it on two or more images that differ.
    """
    redraw_constants(network)
    take_statistics(network, run)
    parts = dict(network.named_modules())
    layers = {name: parts[name] for name in parts if any(fnmatchcase(name, head.layer) for head in heads)}
    answered = answers(layers, run)
    for head in heads:
        for name, layer in layers.items():
            if fnmatchcase(name, head.layer):
                channels = _channels(head, answered[name].shape[1])
                spread(layer, answered[name], Spread(head.mean, head.deviation), channels)


def _channels(head: Head, count: int) -> Tensor:
    """The numbers of a head's channels, of all that its layer has."""
    return torch.arange(count).view(-1, head.period or count)[:, head.first : head.past].flatten()
