"""The models of a server as a table."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retinue_client import ModelInfo
from retinue_client.cli._console import named, plain

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
    shares = _requests(models)
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


def _requests(models: list[ModelInfo]) -> list[str]:
    """Which requests each of them answers; nothing at all where no model has labels, a policy or a second version."""
    by_name: dict[str, list[ModelInfo]] = {}
    for model in models:
        by_name.setdefault(model.name, []).append(model)
    if len(by_name) == len(models) and not any(
        model.version_labels or model.traffic_percent is not None or model.shadow_percent for model in models
    ):
        return [""] * len(models)
    return [", ".join(_request_parts(model, by_name[model.name])) for model in models]


def _request_parts(model: ModelInfo, versions: list[ModelInfo]) -> list[str]:
    """Its labels, its part of the requests that name no version, and copies.

    Args:
        model: One version.
        versions: All that are served of it: they share what a split gives to others.
    """
    parts = [named(label) for label in model.version_labels]
    whole = sum(version.traffic_percent or 0 for version in versions)
    if whole:
        share = 100 * (model.traffic_percent or 0) / whole
        parts += [f"{share:.3g} %"] if share else []
    else:
        share = 100 if model.version == max(version.version for version in versions) else 0
        parts += ["newest"] if share else []
    if model.shadow_percent and share < 100:
        parts.append(f"copies of {model.shadow_percent} %")
    return parts


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
    """What it answers, whether several models do so together, and of a detector what it needs and says besides."""
    features = {
        "pipeline": bool(model.steps),
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


def text_table(*columns: str) -> Table:
    """A table of texts, none of which is cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
