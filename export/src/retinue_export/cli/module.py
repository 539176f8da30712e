"""`retinue-export module`."""

from pathlib import Path
from typing import Annotated

import typer

from retinue_export import bundle, input_options, user_module
from retinue_export.cli.asked import (
    Asked,
    CalibrationOption,
    LabelledOption,
    MaxDropOption,
    PrecisionOption,
    ProviderOption,
)
from retinue_export.cli.build import build
from retinue_export.cli.options import Heatmap, Out, Version
from retinue_export.input_options import Interpolation, Task
from retinue_export.precision import Precision
from retinue_server.vision.spec import ResizeMode


def module(  # noqa: PLR0913 (a command's options are its parameters)
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:FUNCTION",
            help="What builds the torch.nn.Module when called without arguments; or package.module:FUNCTION.",
        ),
    ],
    *,
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    labels: Annotated[Path, typer.Option(help="A text file, one label a line, by class id.")],
    size: Annotated[
        str, typer.Option(help="Rows and columns of the input: 224, or 240x320 (height x width).")
    ],
    mean: Annotated[
        str,
        typer.Option(help="For each channel, of levels in [0, 1]: what is subtracted, as 0.485,0.456,0.406."),
    ],
    std: Annotated[str, typer.Option(help="Likewise: what is divided by, as 0.229,0.224,0.225.")],
    version: Version = 1,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file or one of torch.save's; without it those the module is built with."
        ),
    ] = None,
    task: Annotated[Task, typer.Option(help="What the module answers.")] = Task.CLASSIFY,
    grey: Annotated[bool, typer.Option("--grey", help="One channel of grey instead of RGB.")] = False,
    resize: Annotated[
        ResizeMode, typer.Option(help="How an image is brought to the size.")
    ] = ResizeMode.STRETCH,
    shorter_side: Annotated[
        int,
        typer.Option(
            help="For shorter_side_center_crop: what the shorter side is scaled to before the crop."
        ),
    ] = 0,
    interpolation: Annotated[
        Interpolation, typer.Option(help="The filter of the resizing.")
    ] = Interpolation.BILINEAR,
    pad_value: Annotated[
        int, typer.Option(min=0, max=255, help="For letterbox: the grey around the image.")
    ] = 0,
    max_detections: Annotated[
        int | None,
        typer.Option(
            help="Of a detector: how many detections of an image are kept, at most.", show_default="100"
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Likewise: a detection must score higher than this.", show_default="0.05"),
    ] = None,
    iou_threshold: Annotated[
        float | None,
        typer.Option(help="Likewise: two boxes of a class that overlap more are one.", show_default="0.6"),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(help="Likewise: what is returned when a request does not say.", show_default="0.5"),
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(
            help="Likewise: how many regions of an image it takes beside images.", show_default="none"
        ),
    ] = None,
    precision: PrecisionOption = Precision.FP16_WEIGHTS,
    calibration: CalibrationOption = None,
    labelled: LabelledOption = None,
    max_drop: MaxDropOption = None,
    provider: ProviderOption = None,
    heatmap: Heatmap = True,
) -> None:
    """Export a network of your own: code that builds it, and a file with its weights."""
    bundle.require_free(out, name, version)
    spec, normalisation = input_options.parse(
        size, mean, std, grey, resize, shorter_side, interpolation, pad_value
    )
    answer = input_options.parse_answer(
        task, max_detections, min_score, iou_threshold, score_threshold, regions
    )
    build(
        lambda: user_module.candidate(target, name, answer, spec, normalisation, labels, weights),
        out,
        version,
        Asked(precision, calibration, labelled, max_drop, provider),
        heatmap=heatmap,
    )
