"""The command `retinue bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from retinue_client._bench.load import ClosedLoop, Load, OpenLoop
from retinue_client.cli._bench_run import (
    MOST_IN_FLIGHT,
    STANDARD_OUTPUT,
    Plan,
    Question,
    make_photos,
    measure,
    read_images,
)
from retinue_client.cli._exit import fail
from retinue_client.cli._options import (
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    Model,
    ModelVersion,
    PriorityOption,
    Regions,
    Server,
    TaskName,
    Threshold,
    Timeout,
    TopK,
    connect_async,
    options_of_task,
    parse_region,
)

_DEFAULT_CONCURRENCY = "1,4,16"
_DEFAULT_SIZE = "500x375"
# As many as no server takes, and few enough to be a mistake of nobody's.
_LARGEST = 100_000
_LARGEST_SIDE = 10_000
_LONGEST_SECONDS = 86_400


def bench(  # noqa: PLR0913 (a command's options are its parameters)
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files, or folders of them, asked about in turns; - reads one from standard input. Without any, "
            "pictures are made.",
        ),
    ] = None,
    *,
    task: Annotated[TaskName, typer.Option("--task", "-t", help="The question.")],
    model: Model = "",
    model_version: ModelVersion = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="N,N,...",
            help="Closed loop: so many callers, each of which asks again when it has its answer. One after the other; "
            f"{_DEFAULT_CONCURRENCY} where there is no --rate either.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            "-r",
            metavar="R,R,...",
            help="Open loop: so many requests a second, at random moments, whether those before them were answered or "
            "not. Latencies count from when a request was due.",
        ),
    ] = None,
    images_per_request: Annotated[
        int, typer.Option("--images-per-request", "-n", min=1, help="How many images a request asks about.")
    ] = 1,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="SECONDS",
            min=0.1,
            max=_LONGEST_SECONDS,
            help="How long each load is measured.",
        ),
    ] = 10.0,
    warm_up: Annotated[
        float,
        typer.Option(
            "--warm-up",
            metavar="SECONDS",
            min=0,
            max=_LONGEST_SECONDS,
            help="How long it runs before that.",
        ),
    ] = 2.0,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            metavar="MS",
            min=0,
            max=1000 * _LONGEST_SECONDS,
            help="Goodput counts only what is answered within this time.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send decoded pixels; image files travel as they are otherwise.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WxH", help=f"Of the pictures that are made; {_DEFAULT_SIZE} by default."
        ),
    ] = None,
    top_k: TopK = None,
    threshold: Threshold = None,
    masks: Annotated[bool, typer.Option("--masks", help="Also ask which pixels show each object.")] = False,
    region: Regions = None,
    priority: PriorityOption = "normal",
    connections: Annotated[
        int,
        typer.Option(
            "--connections",
            min=1,
            help="Over how many connections: a server takes so many calls at once from each. Each process has one.",
        ),
    ] = 8,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, help="How many processes send, for servers that one is too slow for."
        ),
    ] = 1,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            min=1,
            help=f"The most requests under way in an open loop; {MOST_IN_FLIGHT:,}, or fewer where they are large.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is left to chance.")] = 0,
    json_out: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON; - is standard output."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Measure a server: throughput, latency, and where the time goes.

    Each load is a row. Ctrl-C ends the measurement and shows what there is so far.
    """
    loads = _loads(concurrency, rate)
    if images and size is not None:
        fail("--size is that of the pictures that are made where no image is named.")
    options: dict[str, Any] = {"model": model, "version": model_version, "priority": priority}
    options |= options_of_task(
        task,
        {
            "--top-k": ("top_k", {TaskName.CLASSIFY}, top_k),
            "--threshold": ("score_threshold", {TaskName.DETECT}, threshold),
            "--masks": ("masks", {TaskName.DETECT}, masks or None),
        },
    )
    files = read_images(images) if images else make_photos(*_size(size or _DEFAULT_SIZE), seed)
    question = Question(
        task.value,
        options,
        files,
        [parse_region(text) for text in region or ()],
        images_per_request,
        raw=raw,
    )
    measure(
        question,
        Plan(
            loads,
            seconds=seconds,
            warm_up_seconds=warm_up,
            within_ms=within,
            max_in_flight=max_in_flight,
            connections=connections,
            processes=processes,
            seed=seed,
        ),
        client=connect_async(server, timeout),
        timeout_seconds=timeout,
        json_out=_json_out(json_out),
    )


def _loads(concurrency: str | None, rate: str | None) -> list[Load]:
    """The loads that two options name, closed loops first.

    Raises:
        typer.BadParameter: One of them is no list of numbers that are large enough.
    """
    if concurrency is None and rate is None:
        concurrency = _DEFAULT_CONCURRENCY
    closed = [ClosedLoop(int(number)) for number in _numbers("--concurrency", concurrency, int, 1)]
    return [*closed, *(OpenLoop(number) for number in _numbers("--rate", rate, float, 0.001))]


def _numbers(option: str, text: str | None, kind: type[int] | type[float], least: float) -> list[float]:
    if text is None:
        return []
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number <= _LARGEST for number in numbers):
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(
            f"{text!r}: write one or several {what} from {least:g} to {_LARGEST:,}, with commas between them.",
            param_hint=option,
        )
    return numbers


def _size(text: str) -> tuple[int, int]:
    """Reads "WxH".

    Raises:
        typer.BadParameter: It is something else.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 1):
        raise typer.BadParameter(f"{text!r} is no size: write WxH, as 500x375.", param_hint="--size")
    if max(int(width), int(height)) > _LARGEST_SIDE:
        raise typer.BadParameter(
            f"{text!r} is too large: a side has {_LARGEST_SIDE:,} pixels at most.", param_hint="--size"
        )
    return int(width), int(height)


def _json_out(name: str | None) -> Path | None:
    """Where the JSON goes.

    Raises:
        typer.Exit: Nothing could be written there.
    """
    if name is None or name == STANDARD_OUTPUT:
        return None if name is None else Path(name)
    path = Path(name)
    if path.is_dir():
        fail(f"--json: {name!r} is a folder.")
    if not path.parent.is_dir():
        fail(f"--json: there is no folder {str(path.parent)!r}.")
    return path
