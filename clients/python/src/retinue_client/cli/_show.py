"""Results as people read them, and as programs do."""

import json
import sys
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from retinue_client import Classification, Detections, ImageError, ModelInfo, RetinueError, Segmentation
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
_METRIC_NAMES = {
    "top1_accuracy": "top-1",
    "top5_accuracy": "top-5",
    "map_50": "mAP@50",
    "map_50_95": "mAP@50-95",
    "mean_iou": "mIoU",
    "top1_agreement": "top-1 as in FP32",
    "pixel_agreement": "pixels as in FP32",
    "detection_agreement": "detections as in FP32",
}


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


def models_table(models: list[ModelInfo]) -> RenderableType:
    """What is served, a row for each model."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("name", style="cyan", no_wrap=True)
    table.add_column("version", justify="right")
    table.add_column("task")
    table.add_column("input", no_wrap=True)
    table.add_column("classes", justify="right")
    table.add_column("quality")
    table.add_column("provider", no_wrap=True)
    table.add_column("max batch", justify="right")
    table.add_column("memory", justify="right", no_wrap=True)
    # Of no interest where all servers have is one version, or the newest.
    shares = [_share(model) for model in models]
    if any(shares):
        table.add_column("requests")
    for model, share in zip(models, shares, strict=True):
        table.add_row(
            named(model.name),
            str(model.version),
            _task(model),
            _input(model),
            f"{len(model.labels):,}",
            _quality(model),
            named(model.provider.removesuffix("ExecutionProvider")),
            str(model.max_batch_size),
            _memory(model),
            *([share] if any(shares) else []),
        )
    fallbacks = {model.fallback_reason for model in models if model.fallback_reason}
    legend = Text("memory: weights + ONNX Runtime's arena + buffers, at most", "dim")
    reasons = (Text(f"fallback: {plain(reason)}", "yellow") for reason in sorted(fallbacks))
    return Group(table, legend, *reasons)


def _share(model: ModelInfo) -> str:
    """Which requests a version answers, where its model has labels, a split or a shadow."""
    parts = [named(label) for label in model.version_labels]
    if model.traffic_percent is not None:
        parts.append(f"{model.traffic_percent} %")
    if model.shadow_percent:
        parts.append(f"copies of {model.shadow_percent} %")
    return ", ".join(parts)


def _memory(model: ModelInfo) -> str:
    """What it takes, and of that what for; a server may be too old to tell that."""
    sizes_bytes = model.memory_bytes, model.weights_bytes, model.arena_bytes, model.buffers_bytes
    total, *parts = (f"{size_bytes / 2**20:.1f}" for size_bytes in sizes_bytes)
    return f"{total} MiB ({' + '.join(parts)})" if any(sizes_bytes[1:]) else f"{total} MiB"


def _input(model: ModelInfo) -> str:
    """The size and the colours of its images, rows first as where it is exported."""
    if model.task == "tensor":
        return "tensors"
    order = "" if model.input_height == model.input_width else " (h x w)"
    return f"{model.input_height}x{model.input_width}{order} {model.colour}"


def _task(model: ModelInfo) -> str:
    """What it answers, and of a detector whether it needs regions and what else it says of an object."""
    features = {
        "regions": model.max_regions > 0,
        "masks": model.gives_masks,
        "keypoints": bool(model.keypoint_names),
    }
    named = ", ".join(name for name, has in features.items() if has)
    return f"{model.task} ({named})" if named else model.task


def _quality(model: ModelInfo) -> str:
    """The figures of the network as it is served; those of other precisions stand beside them in the manifest."""
    served = [
        entry
        for entry in model.quality
        if entry.engine == "onnxruntime" and entry.precision == model.precision
    ] or list(model.quality)
    return ", ".join(
        f"{_METRIC_NAMES.get(entry.metric) or named(entry.metric)} {entry.value:.3f}" for entry in served
    )


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
