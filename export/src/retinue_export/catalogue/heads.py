"""Lets freshly built detectors find something: the layers that speak of objects say it neither always nor never.

What `liveness` is to classifiers and segmenters, whose last layer it finds by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

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
    said: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(
            lambda _layer, _inputs, answer, name=name: said[name].append(answer.movedim(1, -1).flatten(0, -2))
        )
        for name, layer in layers.items()
    ]
    run()
    for hook in hooks:
        hook.remove()
    for head in heads:
        for name, layer in layers.items():
            if fnmatchcase(name, head.layer):
                _spread(layer, head, torch.cat(said[name]))


def _spread(layer: nn.Module, head: Head, said: Tensor) -> None:
    """Scales and shifts some channels of a layer.

    Args:
        layer: a convolution or a dense layer, with a bias.
        head: see there.
        said: float32 [answers,channels], what it says until now.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    period = head.period or len(layer.bias)
    chosen = torch.arange(len(layer.bias)).view(-1, period)[:, head.first : head.past].flatten()
    means = said[:, chosen].mean(dim=0)
    scale = head.deviation / (said[:, chosen] - means).std()
    layer.weight[chosen] *= scale
    layer.bias[chosen] = (layer.bias[chosen] - means) * scale + head.mean
