"""The Muon optimizer, for the filters of convolutions."""

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose steps are made orthogonal: every direction of a filter bank moves equally far.

    torch.optim.Muon takes matrices only, and iterates in bfloat16 over whole matrices: three times as slow on a CPU.

    Args:
        filters: weights of at least two dimensions, seen as matrices [first dimension, all else]: a row for each
            output of a convolution, for each input of a transposed one.
        lr: learning rate; the step of a matrix that is higher than wide is larger by the root of that ratio.
        weight_decay: decoupled, as in AdamW.
        momentum: share of the gradients so far that is kept, in [0, 1).

    Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, which gives the
    coefficients of the Newton-Schulz iteration too.
    """

    def __init__(
        self, filters: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(filters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # there is no closure to call
        """Moves all filters by their gradients."""
        for group in self.param_groups:
            for filters in group["params"]:
                velocity = self.state[filters].setdefault("velocity", torch.zeros_like(filters))
                velocity.lerp_(filters.grad, 1 - group["momentum"])
                ahead = filters.grad.lerp(velocity, group["momentum"])
                matrix = orthogonalised(ahead.flatten(1))
                rows, columns = matrix.shape
                filters.mul_(1 - group["lr"] * group["weight_decay"])
                filters.add_(matrix.view_as(filters), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Brings the singular values near 1, to between about 0.7 and 1.2, and keeps the directions.

    All steps of the iteration are polynomials of one Gram matrix, so that only the first and the last product are as
    wide as `matrix`.

    Args:
        matrix: float32 [rows,columns].

    Returns:
        float32 [rows,columns].
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    linear, cubic, quintic = _COEFFICIENTS
    matrix = matrix / (matrix.norm() + 1e-7)
    identity = torch.eye(len(matrix))
    product, gram = identity, matrix @ matrix.T
    for _ in range(_ITERATIONS):
        factor = linear * identity + cubic * gram + quintic * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ matrix
