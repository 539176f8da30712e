"""What single layers answer, and how to bring that to a mean and a deviation."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True, slots=True)
class Spread:
    """How answers are to be distributed: their mean, and their standard deviation."""

    mean: float
    deviation: float


def answers(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """Notes what layers answer while a network runs.

    Args:
        layers: which, by any names; each answers [N,C] or [N,C,...], once or more often.
        run: runs the network.

    Returns:
        Of each float32 [answers,C].
    """
    noted: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(
                lambda _layer, _inputs, answer, name=name: noted[name].append(
                    answer.movedim(1, -1).flatten(0, -2)
                )
            )
            hooks.callback(hook.remove)
        run()
    return {name: torch.cat(answered) for name, answered in noted.items()}


def spread(
    layer: nn.Module,
    answered: Tensor,
    wanted: Spread,
    channels: Tensor | slice = slice(None),
    each: bool = True,
) -> None:
    """Scales and shifts some channels of a layer, in place.

    Args:
        layer: has a bias.
        answered: float32 [answers,C], what it answers until now.
        wanted: how these channels together are to be distributed.
        channels: which; all of them by default.
        each: whether each of them gets the mean, too.
    """
    assert isinstance(layer, Layer)
    assert layer.bias is not None
    part = answered[:, channels]
    means = part.mean(dim=0) if each else part.mean()
    scale = wanted.deviation / (part - means).std()
    layer.weight[channels] *= scale
    layer.bias[channels] = (layer.bias[channels] - means) * scale + wanted.mean
