"""`retinue-export diff`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retinue_export.cli.options import HtmlPage, require_writable, version_folder, write_page
from retinue_export.cli.show import console, print_json
from retinue_export.comparison import compare, pictures, report, side
from retinue_export.errors import ParityError


def diff(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A version folder, or a model's folder.", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same task.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of image files; without it the sample images of scikit-image and scikit-learn.",
        ),
    ] = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="End with exit code 1 where they agree on less: on top classes, on detections, or on pixels.",
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    html: HtmlPage = None,
) -> None:
    """Compare two bundles on the same images: how often they agree, and where they differ."""
    if html is not None:
        require_writable(html)
    shown = pictures.samples() if images is None else pictures.from_folder(images)
    first, second = (side.open_bundle(version_folder(folder)) for folder in (a, b))
    with Console(stderr=True).status("comparing") as progress:
        compared = compare.compare(
            first, second, shown, lambda done, total: progress.update(f"comparing: {done} of {total} images")
        )
        if html is not None:
            progress.update("drawing")
            write_page(html, report.page(compared))
    if as_json:
        print_json(report.as_json(compared))
    else:
        report.print_report(console, compared)
    agreement = compared.comparison.agreement
    if agreement < min_agreement:
        raise ParityError(f"The bundles agree on {agreement:.4f}, less than the {min_agreement:g} asked for.")
