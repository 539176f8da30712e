"""Results as people read them, and as programs do."""

import json
import sys
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from retinue_client import Classification, Detections, ImageError, RetinueError, Segmentation
from retinue_client._palette import colour_of_class
from retinue_client._segmentation import first_coloured_class
from retinue_client.cli._console import named, plain
from retinue_client.cli._exit import fail

Result = Classification | Detections | Segmentation

_BAR_WIDTH = 24
# A table takes a second for so many.
_MOST_DETECTIONS = 5000
# Of each detection, in a table.
_MOST_CLASSES = 3


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on a line of its own, in ASCII so that any locale can print it.

    Raises:
        typer.Exit: One of the values is NaN or infinite, for which JSON has no words.
    """
    try:
        line = json.dumps(values, allow_nan=False)
    except ValueError:
        fail("The server answered a number that is not finite, which JSON cannot say.")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def json_line(image: str, outcome: Result | RetinueError) -> dict[str, Any]:
    """What became of one image, always with the same keys: image, result and error, one of the latter null."""
    if isinstance(outcome, RetinueError):
        return {"image": image, "result": None, "error": outcome.to_dict()}
    return {"image": image, "result": outcome.to_dict(), "error": None}


def failure_line(image: str, error: ImageError) -> Text:
    """Why an image has no result."""
    return Text.assemble(
        (plain(image), "bold"), ": ", (named(error.reason), "red"), ": ", plain(error.message)
    )


def result_block(image: str, result: Result) -> RenderableType:
    """A heading and a compact table."""
    if isinstance(result, Classification):
        size, table = "", _classification_table(result)
    elif isinstance(result, Detections):
        size, table = f"{result.image_width}x{result.image_height}  ", _detections_table(result)
    else:
        size, table = f"{result.width}x{result.height}  ", _segmentation_table(result)
    timing = result.timing
    heading = Text.assemble(
        (plain(image), "bold"),
        "  ",
        size,
        (f"{named(result.model)} v{result.version}", "cyan"),
        (
            f"  {timing.total_us / 1000:.1f} ms (decode {timing.decode_us / 1000:.1f}, "
            f"queue {timing.queue_us / 1000:.1f}, inference {timing.inference_us / 1000:.1f}, "
            f"postprocess {timing.postprocess_us / 1000:.1f}; batch {timing.batch_size})",
            "dim",
        ),
    )
    return Group(heading, Padding(table, (0, 0, 0, 2), expand=False))


def _classification_table(result: Classification) -> RenderableType:
    if not result.classes:
        return Text("no class reached the score asked for", "dim")
    table = _plain_table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for entry in result.classes:
        bar = "█" * round(entry.score * _BAR_WIDTH)
        table.add_row(named(entry.label), f"{entry.score:.1%}", Text(bar, _style(entry.class_id)))
    return table


def _detections_table(result: Detections) -> RenderableType:
    if not result:
        return Text("nothing found", "dim")
    table = _plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("label", overflow="fold")
    for name in ("score", "x_min", "y_min", "x_max", "y_max"):
        table.add_column(name, justify="right", no_wrap=True)
    if result.classifier:
        table.add_column(f"{named(result.classifier)} v{result.classifier_version}", overflow="fold")
    for one in result[:_MOST_DETECTIONS]:
        classes = ", ".join(
            f"{named(entry.label)} {entry.score:.1%}" for entry in one.classes[:_MOST_CLASSES]
        )
        table.add_row(
            Text("■", _style(one.class_id)),
            named(one.label),
            f"{one.score:.3f}",
            *(f"{edge:.1f}" for edge in one.box),
            *([classes] if result.classifier else ()),
        )
    if len(result) <= _MOST_DETECTIONS:
        return table
    return Group(table, Text(f"and {len(result) - _MOST_DETECTIONS:,} more, all of them in --json", "dim"))


def _segmentation_table(result: Segmentation) -> RenderableType:
    table = _plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("label", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    pixels = max(1, result.width * result.height)
    first = first_coloured_class(result.areas)
    for area in result.areas:
        square = Text(" ") if area.is_background else Text("■", _style(area.class_id - first))
        table.add_row(square, named(area.label), f"{area.area_pixels / pixels:.1%}", f"{area.area_pixels:,}")
    return table


def _plain_table(*, show_header: bool = True) -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=show_header)


def _style(class_id: int) -> str:
    red, green, blue = colour_of_class(class_id)
    return f"#{red:02x}{green:02x}{blue:02x}"
