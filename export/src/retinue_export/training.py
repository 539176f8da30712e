"""The one training loop of all recipes: AdamW on a one-cycle schedule, in bfloat16 where the CPU has it."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]
Report = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the smoothed loss."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: batches to learn from.
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: of AdamW; biases and normalisation layers have none.
        warmup_share: the part of the steps in which the rate rises, in (0, 1).
        average_decay: decay of the running average of the weights that is the result, or 0 for the last weights.

    Source: L. Smith, N. Topin, Super-Convergence, arXiv:1708.07120; I. Loshchilov, F. Hutter, Decoupled Weight Decay
    Regularization, arXiv:1711.05101.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_share: float = 0.2
    average_decay: float = 0.0


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, schedule.weight_decay), lr=schedule.learning_rate
    )
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.steps, pct_start=schedule.warmup_share
    )
    average = copy.deepcopy(network) if schedule.average_decay else None
    bfloat16 = has_native_bfloat16()
    smoothed = 0.0
    for step in range(schedule.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(network, next(batches))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        rates.step()
        if average is not None:
            _move_average(average, network, min(schedule.average_decay, (1 + step) / (10 + step)))
        smoothed = value.item() if step == 0 else 0.98 * smoothed + 0.02 * value.item()
        report(step + 1, schedule.steps, smoothed)
    trained = average or network
    return trained.to(memory_format=torch.contiguous_format).eval()


def prefetched(make: Callable[[], Iterator[Batch]], depth: int = 4) -> Iterator[Batch]:
    """Makes batches in a process of its own, up to `depth` ahead, in the same order.

    A thread would not do: making scenes is many short steps in Python, and training would wait for the interpreter
    lock after each of its operators.

    Args:
        make: gives the batches; goes to the other process by pickle.
        depth: how many batches may lie ready.
    """
    loader: DataLoader[Batch] = DataLoader(
        _Made(make), batch_size=None, num_workers=1, prefetch_factor=depth, multiprocessing_context="spawn"
    )
    return iter(loader)


class _Made(IterableDataset[Batch]):
    def __init__(self, make: Callable[[], Iterator[Batch]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Batch]:
        return self._make()


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
