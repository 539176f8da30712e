"""`retinue-export torchvision`."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_export import bundle, torchvision_models
from retinue_export.cli.build import build
from retinue_export.cli.options import FullPrecision, Heatmap, Out, Version


def torchvision(
    architecture: Annotated[
        str, typer.Argument(help="torchvision's name of a classifier, such as mobilenet_v2.")
    ],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(help="A state dict saved by torch.save; without it torchvision's own is downloaded."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A text file, one label a line; without it torchvision's own.")
    ] = None,
    full_precision: FullPrecision = False,
    heatmap: Heatmap = True,
) -> None:
    """Export one of torchvision's image classifiers as a bundle."""
    bundle.require_free(out, name, version)
    build(
        lambda: torchvision_models.candidate(architecture, name, weights, labels, full_precision),
        out,
        version,
        heatmap=heatmap,
    )
