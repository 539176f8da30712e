"""`retinue-export timm`."""

from typing import Annotated

import typer

from retinue_export import bundle, timm_models
from retinue_export.cli.build import build
from retinue_export.cli.options import FullPrecision, Heatmap, Labels, Out, Version, Weights


def timm(
    architecture: Annotated[
        str, typer.Argument(help="timm's name of a classifier, such as resnet18 or resnet18.a1_in1k.")
    ],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Weights = None,
    labels: Labels = None,
    full_precision: FullPrecision = False,
    heatmap: Heatmap = True,
) -> None:
    """Export one of timm's image classifiers as a bundle."""
    bundle.require_free(out, name, version)
    build(
        lambda: timm_models.candidate(architecture, name, weights, labels, full_precision),
        out,
        version,
        heatmap=heatmap,
    )
