"""`retinue-export train`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import nn

from retinue_export import bundle, weight_files
from retinue_export.cli.build import build
from retinue_export.cli.options import Out, Version
from retinue_export.cli.show import console
from retinue_export.errors import ExportError
from retinue_export.recipes.catalog import RECIPES
from retinue_export.recipes.recipe import Recipe


def train(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}, or all.")],
    out: Out,
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(help="Do not train: read NAME.safetensors from this folder.", file_okay=False),
    ] = None,
    keep_weights: Annotated[
        Path | None, typer.Option(help="Also write the trained weights, NAME.safetensors, to this folder.")
    ] = None,
) -> None:
    """Train a model, or all of them, and write each as a bundle."""
    if name != "all" and name not in RECIPES:
        raise ExportError(f"There is no recipe {name!r}. There are {', '.join(RECIPES)}, and all.")
    recipes = list(RECIPES.values()) if name == "all" else [RECIPES[name]]
    for recipe in recipes:
        bundle.require_free(out, recipe.manifest.name, version)
    trained: dict[str, nn.Module] = {}
    for recipe in recipes:
        network = _read_trained(recipe, weights) if weights is not None else _trained(recipe, trained)
        if keep_weights is not None:
            keep_weights.mkdir(parents=True, exist_ok=True)
            save_file(network.state_dict(), keep_weights / f"{recipe.manifest.name}.safetensors")
        build(partial(recipe.candidate, network), out, version)


def _trained(recipe: Recipe, trained: dict[str, nn.Module]) -> nn.Module:
    """Trains a network, and before it those that it learns from, unless `trained` has it already."""
    name = recipe.manifest.name
    if name not in trained:
        before = [_trained(one, trained) for one in recipe.learns_from]
        trained[name] = _train(recipe, before)
    return trained[name]


def _train(recipe: Recipe, before: list[nn.Module]) -> nn.Module:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"training {recipe.manifest.name}", total=None, loss=0.0)
        return recipe.train(
            lambda done, total, loss: progress.update(task, completed=done, total=total, loss=loss), *before
        )


def _read_trained(recipe: Recipe, folder: Path) -> nn.Module:
    name = recipe.manifest.name
    network = recipe.network()
    weight_files.load_into(network, weight_files.read(folder / f"{name}.safetensors"), name)
    return network.eval()
