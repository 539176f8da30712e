"""`retinue-export timm`."""

from typing import Annotated

import typer

from retinue_export import bundle, timm_models
from retinue_export.cli.asked import (
    Asked,
    CalibrationOption,
    LabelledOption,
    MaxDropOption,
    PrecisionOption,
    ProviderOption,
)
from retinue_export.cli.build import build
from retinue_export.cli.options import Heatmap, Labels, Out, Version, Weights
from retinue_export.precision import Precision


def timm(  # noqa: PLR0913 (a command's options are its parameters)
    architecture: Annotated[
        str, typer.Argument(help="timm's name of a classifier, such as resnet18 or resnet18.a1_in1k.")
    ],
    *,
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Weights = None,
    labels: Labels = None,
    precision: PrecisionOption = Precision.FP16_WEIGHTS,
    calibration: CalibrationOption = None,
    labelled: LabelledOption = None,
    max_drop: MaxDropOption = None,
    provider: ProviderOption = None,
    heatmap: Heatmap = True,
) -> None:
    """Export one of timm's image classifiers as a bundle."""
    bundle.require_free(out, name, version)
    build(
        lambda: timm_models.candidate(architecture, name, weights, labels),
        out,
        version,
        Asked(precision, calibration, labelled, max_drop, provider),
        heatmap=heatmap,
    )
