"""`retinue-export torchvision`."""

from typing import Annotated

import typer

from retinue_export import bundle, torchvision_models
from retinue_export.cli.build import build
from retinue_export.cli.options import FullPrecision, Heatmap, Labels, Out, Version, Weights


def torchvision(
    architecture: Annotated[
        str, typer.Argument(help="torchvision's name of a classifier, such as mobilenet_v2.")
    ],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Weights = None,
    labels: Labels = None,
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
