"""The one training loop of all recipes: AdamW, with Muon where asked for, on a one-cycle schedule."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from retinue_export.muon import Muon

Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]
Report = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the smoothed loss."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: batches to learn from.
        learning_rate: the peak of the one-cycle schedule, for the weights that AdamW learns.
        weight_decay: of AdamW; biases and normalisation layers have none.
        hidden_learning_rate: the peak for every convolution, transposed ones too, but the first; Muon then learns
            them. 0 leaves all weights to AdamW, as suits networks without normalisation layers.
        hidden_weight_decay: of Muon.
        warmup_share: the part of the steps in which the rate rises, in (0, 1).
        average_decay: decay of the running average of the weights that is the result, or 0 for the last weights.

    Source: L. Smith, N. Topin, Super-Convergence, arXiv:1708.07120; I. Loshchilov, F. Hutter, Decoupled Weight Decay
    Regularization, arXiv:1711.05101; K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    hidden_learning_rate: float = 0.0
    hidden_weight_decay: float = 0.1
    warmup_share: float = 0.2
    average_decay: float = 0.0


@cache
def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 faster than of float32, measured once, within some 20 ms."""
    float32, bfloat16 = (
        _product_seconds(torch.ones(512, 512, dtype=kind)) for kind in (torch.float32, torch.bfloat16)
    )
    return bfloat16 < float32


def _product_seconds(matrix: Tensor) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        return time.perf_counter() - start

    return min(seconds() for _ in range(5))


def fit(
    network: nn.Module, batches: Iterator[Batch], loss: Loss, schedule: Schedule, report: Report
) -> nn.Module:
    """Trains `network` in place.

    Args:
        network: the module to train, on the CPU.
        batches: yields at least `schedule.steps` batches.
        loss: computes the scalar to minimise from network and batch.
        schedule: see there.
        report: see `Report`.

    Returns:
        The trained network in evaluation mode: `network`, or its running average where the schedule asks for one.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizers = _optimizers(network, schedule)
    rates = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            optimizer.defaults["lr"],
            total_steps=schedule.steps,
            pct_start=schedule.warmup_share,
            cycle_momentum=not schedule.hidden_learning_rate,  # Muon was published with a fixed one
        )
        for optimizer in optimizers
    ]
    average = copy.deepcopy(network) if schedule.average_decay else None
    bfloat16 = bfloat16_is_faster()
    smoothed = 0.0
    for step in range(schedule.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(network, next(batches))
        network.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.step()
            rate.step()
        if average is not None:
            _move_average(average, network, min(schedule.average_decay, (1 + step) / (10 + step)))
        smoothed = value.item() if step == 0 else 0.98 * smoothed + 0.02 * value.item()
        report(step + 1, schedule.steps, smoothed)
    trained = average or network
    return trained.to(memory_format=torch.contiguous_format).eval()


def _optimizers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    hidden: list[Tensor] = []
    if schedule.hidden_learning_rate:
        hidden = [
            module.weight
            for module in network.modules()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        ][1:]
    others = [parameter for parameter in network.parameters() if all(parameter is not one for one in hidden)]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.ndim > 1]},
        {"params": [parameter for parameter in others if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    ]
    if hidden:
        optimizers.append(
            Muon(hidden, lr=schedule.hidden_learning_rate, weight_decay=schedule.hidden_weight_decay)
        )
    return optimizers


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
