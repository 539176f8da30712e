"""The commands."""

from typing import Annotated

import typer

from retinue_client import MaskFormat, WithRegions, __version__
from retinue_client.cli._ask import Outputs, ask_about
from retinue_client.cli._bench import bench
from retinue_client.cli._files import plan_outputs
from retinue_client.cli._models import models
from retinue_client.cli._options import (
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    Classes,
    ClassifyWithModel,
    Context,
    Draw,
    Heatmap,
    Images,
    IouThreshold,
    Json,
    Masks,
    MaxDetections,
    MinScore,
    Model,
    ModelVersion,
    PriorityOption,
    Regions,
    Server,
    Threshold,
    Timeout,
    TlsCa,
    TlsCertificate,
    TlsKey,
    TokenFile,
    TopK,
    classify_with,
    connect,
    note_credentials,
    parse_region,
)
from retinue_client.cli._score import score

app = typer.Typer(
    name="retinue",
    help="Asks a Retinue server about images.",
    epilog="Exit codes: 0 every image was answered; 1 some were not, or not drawn; 2 wrong usage, or the server did "
    "not answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(no_args_is_help=True)(score)
app.command(no_args_is_help=True)(bench)
app.add_typer(models, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"retinue {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_the_program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
) -> None:
    note_credentials(tls_ca, tls_certificate, tls_key, token_file)


@app.command(no_args_is_help=True)
def classify(  # noqa: PLR0913 (a command's options are its parameters)
    images: Images,
    *,
    model: Model = "",
    model_version: ModelVersion = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    priority: PriorityOption = "normal",
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
    draw: Draw = None,
    heatmap: Heatmap = None,
) -> None:
    """Say which classes each image shows."""
    outputs = _outputs(images, as_json, draw, heatmap=heatmap)
    with connect(server, timeout) as client:
        ask_about(
            images,
            lambda contents: client.classify(
                contents,
                model=model,
                version=model_version,
                priority=priority,
                top_k=top_k,
                min_score=min_score,
                heatmap=heatmap is not None,
            ),
            outputs,
        )


@app.command(no_args_is_help=True)
def detect(  # noqa: PLR0913 (a command's options are its parameters)
    images: Images,
    *,
    model: Model = "",
    model_version: ModelVersion = None,
    threshold: Threshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    iou: IouThreshold = None,
    masks: Masks = False,
    classifier: ClassifyWithModel = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    context: Context = None,
    region: Regions = None,
    priority: PriorityOption = "normal",
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Find the objects in each image."""
    outputs = _outputs(images, as_json, draw)
    regions = [parse_region(text) for text in region or ()]
    asked = classify_with(classifier, top_k=top_k, min_score=min_score, context=context)
    with connect(server, timeout) as client:
        ask_about(
            images,
            lambda contents: client.detect(
                [WithRegions(content, regions) for content in contents] if regions else contents,
                model=model,
                version=model_version,
                priority=priority,
                score_threshold=threshold,
                max_detections=max_detections,
                classes=classes or (),
                iou_threshold=iou,
                masks=masks,
                classify_with=asked,
            ),
            outputs,
        )


@app.command(no_args_is_help=True)
def segment(  # noqa: PLR0913 (a command's options are its parameters)
    images: Images,
    *,
    model: Model = "",
    model_version: ModelVersion = None,
    classes: Classes = None,
    mask_out: Annotated[
        str | None,
        typer.Option(
            "--mask-out",
            metavar="OUT.png",
            help="Write the class map as a greyscale PNG; for several images, a folder.",
        ),
    ] = None,
    priority: PriorityOption = "normal",
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Give each pixel of each image a class."""
    outputs = _outputs(images, as_json, draw, mask_out=mask_out)
    # Run-length masks are text that COCO tools read; a PNG is smaller where nobody reads it as JSON.
    mask_format: MaskFormat = "coco_rle" if as_json else "png"
    with connect(server, timeout) as client:
        ask_about(
            images,
            lambda contents: client.segment(
                contents,
                model=model,
                version=model_version,
                priority=priority,
                classes=classes or (),
                mask_format=mask_format,
            ),
            outputs,
        )


def _outputs(
    images: list[str],
    as_json: bool,
    draw: str | None,
    *,
    mask_out: str | None = None,
    heatmap: str | None = None,
) -> Outputs:
    return Outputs(
        as_json=as_json,
        drawings=plan_outputs("--draw", draw, images),
        heatmaps=plan_outputs("--heatmap", heatmap, images),
        class_maps=plan_outputs("--mask-out", mask_out, images, suffixes=frozenset({".png"})),
    )
