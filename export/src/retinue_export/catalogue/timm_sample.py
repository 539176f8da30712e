"""A random sample of timm's classifiers, since proving all of them would take a day."""

import random
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from retinue_export import timm_models
from retinue_export.catalogue.rows import Row, timm_row
from retinue_export.errors import ExportError

MOST_PARAMETERS = 400_000_000
"""Larger networks are not drawn: with the copies that a comparison needs they fill a machine's memory."""
_SIDES = (128, 224)
"""Rows and columns of the images that are tried before those the network was made for."""


def draw(count: int, seed: int) -> list[Row]:
    """Draws classifiers of at most `MOST_PARAMETERS`, each with the smallest input that it runs on.

    Args:
        count: how many.
        seed: of the drawing.

    Raises:
        ExportError: timm does not have so many.
    """
    if not count:
        return []
    names = timm_models.classifiers()
    random.Random(seed).shuffle(names)
    rows: list[Row] = []
    for name in names:
        if len(rows) == count:
            break
        side, parameters = _smallest_run(name)
        if parameters <= MOST_PARAMETERS:
            rows.append(replace(timm_row(name, side), build=partial(_build, name, side)))
    if len(rows) < count:
        raise ExportError(f"timm has {len(rows)} classifiers of that size, fewer than --timm-sample {count}.")
    return rows


def _build(name: str, side: int) -> nn.Module:
    """Builds a classifier, if its own pre-processing is one that a bundle can have."""
    timm_models.find_preset(name)
    return timm_models.build_network(name, 1000, side)


@torch.no_grad()
def _smallest_run(name: str) -> tuple[int, int]:
    """Finds rows and columns of an input that a classifier runs on, and counts its parameters; computes nothing."""
    own = timm_models.input_side(name)
    network: nn.Module | None = None
    for side in (*(side for side in _SIDES if side < own), own):
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                network = timm_models.build_network(name, 1000, side).eval()
                network(torch.zeros(2, 3, side, side))
        except Exception:  # each architecture refuses what it cannot take in its own way
            continue
        break
    return side, sum(parameter.numel() for parameter in network.parameters()) if network is not None else 0
