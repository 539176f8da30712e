"""`retinue-export adopt`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from retinue_export import bundle
from retinue_export.adoption import adopted, reading
from retinue_export.adoption.facts import Facts, Told
from retinue_export.cli.build import print_bundle
from retinue_export.cli.options import Out, Version
from retinue_export.cli.show import console, plain
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation, Task
from retinue_server.vision.spec import ResizeMode


def adopt(  # noqa: PLR0913 (a command's options are its parameters)
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.onnx", help="What another exporter has written.", show_default=False),
    ],
    *,
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    out: Out,
    version: Version = 1,
    task: Annotated[Task | None, typer.Option(help="What the graph answers, if that cannot be seen.")] = None,
    output: Annotated[str | None, typer.Option(help="Which of its outputs is the answer.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one label a line, by class id.")] = None,
    softmax: Annotated[
        bool | None,
        typer.Option(
            "--softmax/--no-softmax", help="Whether a classifier answers logits, if that cannot be seen."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Rows and columns of the input: 224, or 240x320 (height x width).")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="For each channel, of levels in [0, 1]: what is subtracted.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise: what is divided by.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="The graph takes one channel of grey.")] = False,
    bgr: Annotated[bool, typer.Option("--bgr", help="The graph takes blue, green, red.")] = False,
    resize: Annotated[ResizeMode | None, typer.Option(help="How an image is brought to the size.")] = None,
    shorter_side: Annotated[
        int | None, typer.Option(help="For shorter_side_center_crop: what the shorter side is scaled to.")
    ] = None,
    interpolation: Annotated[Interpolation | None, typer.Option(help="The filter of the resizing.")] = None,
    pad_value: Annotated[
        int | None, typer.Option(min=0, max=255, help="For letterbox: the grey around the image.")
    ] = None,
    preprocessor: Annotated[
        Path | None, typer.Option(help="Hugging Face's preprocessor_config.json, if not beside the file.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Hugging Face's config.json, if not beside the file.")
    ] = None,
    native_map: Annotated[
        bool, typer.Option("--native-map", help="Leave a segmenter's class map as small as its logits are.")
    ] = False,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="A detector's rows for each image.")
    ] = None,
    iou_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Above which overlap two boxes are one detection.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="What is returned when a request names no threshold.")
    ] = None,
) -> None:
    """Wrap an ONNX file that another exporter has written into a bundle, and prove that it answers the same."""
    bundle.require_free(out, name, version)
    told = Told(
        task=task,
        output=output,
        labels=labels,
        softmax=softmax,
        size=size,
        mean=mean,
        std=std,
        grey=grey,
        bgr=bgr,
        resize=resize,
        shorter_side=shorter_side,
        interpolation=interpolation,
        pad_value=pad_value,
        preprocessor=preprocessor,
        config=config,
        native_map=native_map,
        max_detections=max_detections,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )
    folder = _adopt(file, told, name, out, version)
    print_bundle(folder)


def _adopt(file: Path, told: Told, name: str, out: Path, version: int) -> Path:
    with console.status("reading") as progress:
        foreign = reading.read(file)
        facts = Facts(str(file), told)
        layout = adopted.layout_of(foreign, told)
        console.print(f"[bold]{plain(file)}[/]  {layout.name}", soft_wrap=True)
        try:
            adopted.learn(foreign, layout, facts)
            understood = adopted.understand(foreign, layout, facts)
        except ExportError:
            _print_facts(facts)
            raise
        facts.learn("its shape", answer=understood.head.meaning)
        _print_facts(facts)
        return adopted.build(
            understood, name, out, version, lambda stage: progress.update(f"{name}: {stage}")
        )


def _print_facts(facts: Facts) -> None:
    """Prints what was found out, also where that is not enough."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    for name, value, source in facts.lines():
        table.add_row(name.replace("_", " "), plain(value), plain(source))
    console.print(table)
    for note in facts.notes:
        console.print(f"  note: {plain(note)}", soft_wrap=True)
