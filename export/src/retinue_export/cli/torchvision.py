"""`retinue-export torchvision`."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_export import bundle, torchvision_models
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


def torchvision(  # noqa: PLR0913 (a command's options are its parameters)
    architecture: Annotated[
        str,
        typer.Argument(
            help="torchvision's name of a classifier, segmenter or detector, such as mobilenet_v2."
        ),
    ],
    *,
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    weights: Weights = None,
    labels: Labels = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Rows and columns of a segmenter's or detector's input: 640, or 480x640 (height x width).",
            show_default="what torchvision scales the shorter side to",
        ),
    ] = None,
    keypoints: Annotated[
        Path | None,
        typer.Option(
            help="For Keypoint R-CNN: a text file, one keypoint a line; without it torchvision's own."
        ),
    ] = None,
    precision: PrecisionOption = Precision.FP16_WEIGHTS,
    calibration: CalibrationOption = None,
    labelled: LabelledOption = None,
    max_drop: MaxDropOption = None,
    provider: ProviderOption = None,
    heatmap: Heatmap = True,
) -> None:
    """Export one of torchvision's classifiers, segmenters or detectors as a bundle."""
    bundle.require_free(out, name, version)
    build(
        lambda: torchvision_models.candidate(architecture, name, weights, labels, size, keypoints),
        out,
        version,
        Asked(precision, calibration, labelled, max_drop, provider),
        heatmap=heatmap,
    )
