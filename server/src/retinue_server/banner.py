"""What a person who starts the server reads: its addresses, its models, and what to try next."""

import sys
from collections.abc import Iterator
from pathlib import Path

from retinue_server import __version__
from retinue_server.app import Ready
from retinue_server.catalog import ServedModel
from retinue_server.results import Task
from retinue_server.tensor_steps import is_measured

_COLUMNS = ("model", "version", "task", "input", "largest batch", "images/s an instance")
_EXAMPLES = (
    (Task.CLASSIFY, "examples/cat.jpg", ""),
    (Task.DETECT, "examples/scene.jpg", " --draw detections.png"),
    (Task.SEGMENT, "examples/scene.jpg", " --draw segments.png"),
)


def banner(ready: Ready) -> str:
    """The lines printed when a server takes requests."""
    return "\n".join(_lines(ready))


def _lines(ready: Ready) -> Iterator[str]:
    host = "localhost" if ready.host in {"127.0.0.1", "::1", "0.0.0.0", "::"} else ready.host
    yield f"Retinue {__version__} is ready after {ready.start_seconds:.1f} s, on {ready.provider.name}."
    yield ""
    yield f"  gRPC  {host}:{ready.grpc_port}{'  (TLS)' if ready.encrypted else ''}"
    scheme = "https" if ready.encrypted else "http"
    yield f"  HTTP  {scheme}://{host}:{ready.http_port}  (/metrics, /livez, /readyz)"
    if ready.has_page:
        yield f"  Page  {scheme}://{host}:{ready.http_port}/ui/"
    yield ""
    if ready.catalog.models:
        yield from _table([_COLUMNS, *(_row(model) for model in ready.catalog.models)])
    else:
        yield "  No model is loaded yet."
    for (name, version), error in ready.catalog.failures.items():
        which = f"{name} {version}" if version else name
        yield f"  {which} is NOT served: {error.message}"
    if not ready.catalog.models:
        return
    yield ""
    yield "Try next, in another terminal:"
    at = "" if (host, ready.grpc_port) == ("localhost", 8001) else f" --server {host}:{ready.grpc_port}"
    for command in _commands(ready.catalog.models):
        yield f"  {_client()}{ready.client_options} {command}{at}"


def _row(model: ServedModel) -> tuple[str, ...]:
    image = model.manifest.input
    order = "" if image.height == image.width else " (h x w)"
    taken = "tensors" if model.task is Task.TENSOR else f"{image.height}x{image.width}{order}"
    rate = f"{model.profile.images_per_second:.0f}" if is_measured(model) else "-"
    batch = str(model.profile.max_batch_size)
    return (
        model.name,
        str(model.version),
        str(model.task),
        taken,
        batch,
        rate,
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _commands(models: list[ServedModel]) -> Iterator[str]:
    """One command for each task that is served, on a picture of this repository where the server runs in it."""
    for task, example, more in _EXAMPLES:
        names = [model.name for model in models if model.task is task]
        if names:
            image = example if Path(example).exists() else "PHOTO.jpg"
            yield f"{task} {image} --model {names[-1]}{more}"


def _client() -> str:
    """The client's command line: the one installed beside this server, if there is one."""
    beside = Path(sys.executable).with_name("retinue")
    if not beside.exists():
        return "retinue"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)
