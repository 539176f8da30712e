"""A measurement from its first question to its exit code."""

import asyncio
import json
import math
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import typer

from retinue_client import AsyncClient, ImageError, ModelInfo, RetinueError, Task, __version__
from retinue_client._bench.driver import Rules
from retinue_client._bench.fleet import Fleet, WorkerError
from retinue_client._bench.load import Load
from retinue_client._bench.probe import probe
from retinue_client._bench.requests import Prepared, photo, prepare
from retinue_client._bench.result import Row
from retinue_client._bench.worker import Equipment
from retinue_client._calls import classify_call, detect_call, segment_call
from retinue_client._score.fleet import Wanted, find_model
from retinue_client.cli._bench_screen import BenchScreen, figures_table, remarks, server_table
from retinue_client.cli._console import console_for, named
from retinue_client.cli._exit import EXIT_ALL_ANSWERED, EXIT_INTERRUPTED, EXIT_SOME_FAILED, complain, fail
from retinue_client.cli._files import images_inside, read_image
from retinue_client.cli._show import print_json

STANDARD_OUTPUT = "-"
MOST_IN_FLIGHT = 1000
_MOST_BYTES_IN_FLIGHT = 512 << 20
_LONGEST_DRAIN_SECONDS = 10.0
_PHOTOS = 4
_CALLS: dict[Task, Any] = {"classify": classify_call, "detect": detect_call, "segment": segment_call}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, again and again.

    Attributes:
        task: The kind of question.
        options: Its options, as the client takes them.
        files: The images, as files.
        regions: Where to look in each of them; empty for models that are given none.
        images_per_request: How many images a request has.
        raw: Whether pixels travel instead of files.
    """

    task: Task
    options: dict[str, Any]
    files: list[bytes]
    regions: list[tuple[float, ...]]
    images_per_request: int
    raw: bool

    def prepared(self, model: str) -> list[Prepared]:
        """The requests that ask it of a model.

        Raises:
            RetinueError: An image or an option cannot be sent.
        """
        call = _CALLS[self.task](**{**self.options, "model": model})
        return prepare(call, self.files, self.images_per_request, raw=self.raw, regions=self.regions)


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard it is asked, and for how long.

    Attributes:
        loads: One after the other.
        seconds: How long each is measured.
        warm_up_seconds: How long it runs before that.
        within_ms: What is answered later is no goodput; None where everything is.
        max_in_flight: The most requests under way in an open loop; None where their size decides.
        connections: Over how many connections.
        processes: From how many processes.
        seed: Of all that is left to chance.
    """

    loads: list[Load]
    seconds: float
    warm_up_seconds: float
    within_ms: float | None
    max_in_flight: int | None
    connections: int
    processes: int
    seed: int

    def rules(self, largest_bytes: int, timeout_seconds: float) -> Rules:
        """What holds for each load, given how large requests are and how long one may take."""
        room = min(MOST_IN_FLIGHT, max(1, _MOST_BYTES_IN_FLIGHT // largest_bytes))
        return Rules(
            max_in_flight=self.max_in_flight or room,
            within_seconds=math.inf if self.within_ms is None else self.within_ms / 1000,
            drain_seconds=min(timeout_seconds, _LONGEST_DRAIN_SECONDS),
        )


def read_images(names: list[str]) -> list[bytes]:
    """The files that the command line names, those of folders included.

    Raises:
        typer.Exit: One cannot be read, or a folder has none.
    """
    files = []
    for name in names:
        inside = images_inside(name) if Path(name).is_dir() else [name]
        for path in inside:
            content = read_image(path)
            if isinstance(content, ImageError):
                fail(f"{path}: {content.message}")
            files.append(content)
    return files


def make_photos(width: int, height: int, seed: int) -> list[bytes]:
    """Some pictures where no image is named."""
    return [photo(width, height, seed + number) for number in range(_PHOTOS)]


def measure(
    question: Question,
    plan: Plan,
    *,
    client: AsyncClient,
    timeout_seconds: float,
    json_out: Path | None,
) -> NoReturn:
    """Measures, says what there is to say, and ends the command with its exit code.

    Args:
        question: What is asked.
        plan: How hard.
        client: Of the server.
        timeout_seconds: Each request's deadline.
        json_out: Where everything is written as JSON: a file, "-" for standard output, or None.

    Raises:
        typer.Exit: With 0 where every request was answered, 1 where some were not, 2 where none was, 130 where the
            user interrupted.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    rows: list[Row] = []
    trouble = None
    try:
        model = asyncio.run(_find(client, question))
        equipment = Equipment(
            client.address,
            question.task,
            question.prepared(model.name),
            timeout_seconds,
            plan.connections,
            client._security,
        )
        largest_bytes = max(len(request.body) for request in equipment.requests)
        rules = plan.rules(largest_bytes, timeout_seconds)
        probe(equipment)
        title = _title(model, equipment)
        try:
            _run(plan, rules, equipment, title, rows)
        except WorkerError as exc:
            trouble = str(exc)
    except KeyboardInterrupt:
        complain("interrupted before anything was measured.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RetinueError as error:
        fail(str(error) if isinstance(error, ImageError) else error.message)
    _print_tables(title, rows, json_out)
    if json_out is not None:
        settings = _settings(question, plan, rules, timeout_seconds)
        _write_json(
            json_out,
            {
                "client": __version__,
                "started_at": started_at,
                "server": client.address,
                "model": _facts(model),
                "settings": settings,
                "requests": _requests(equipment),
                "rows": [row.to_dict() for row in rows],
            },
        )
    _exit(plan, rows, trouble)


async def _find(client: AsyncClient, question: Question) -> ModelInfo:
    async with client:
        wanted = Wanted(question.task, question.options["model"], question.options["version"])
        return await find_model(client, wanted)


def _run(plan: Plan, rules: Rules, equipment: Equipment, title: str, rows: list[Row]) -> None:
    """Drives one load after the other, until the last, or until there is no going on.

    Raises:
        WorkerError: A process that sends has ended by itself.
    """
    enabled = sys.stdout.isatty() and sys.stderr.isatty()
    screen = BenchScreen(console_for(sys.stderr), title, len(plan.loads), enabled=enabled)
    with Fleet(equipment, plan.processes) as fleet, screen:
        for number, load in enumerate(plan.loads):
            course = fleet.run(
                load,
                rules,
                seconds=plan.seconds,
                warm_up_seconds=plan.warm_up_seconds,
                seed=plan.seed + number,
                watch=screen.watch,
            )
            rows.append(Row(course, rules.drain_seconds))
            screen.add(rows[-1])
            if course.interrupted or course.lost is not None:
                return


def _exit(plan: Plan, rows: list[Row], trouble: str | None) -> NoReturn:
    """Ends the command."""
    if trouble is not None:
        fail(trouble)
    last = rows[-1].course
    skipped = len(plan.loads) - len(rows)
    if last.interrupted:
        complain(f"interrupted. Loads not begun: {skipped} of {len(plan.loads)}.")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not any(row.course.tally.requests.answered for row in rows):
        messages = [message for row in rows for message in row.course.tally.messages.values()]
        fail(last.lost or next(iter(messages), _nothing(rows)))
    if last.lost is not None and skipped:
        complain(f"the server went away. Loads not begun: {skipped} of {len(plan.loads)}.")
    raise typer.Exit(EXIT_SOME_FAILED if any(row.without_result for row in rows) else EXIT_ALL_ANSWERED)


def _nothing(rows: list[Row]) -> str:
    """Why there is no answer, where no request failed."""
    if any(row.course.tally.requests.sent for row in rows):
        return "No request was answered in the time measured: give it more --seconds."
    return "No request was sent in the time measured: give it more --seconds, or a higher --rate."


def _print_tables(title: str, rows: list[Row], json_out: Path | None) -> None:
    """Shows the figures; on standard error where standard output has the JSON."""
    console = console_for(sys.stderr if json_out == Path(STANDARD_OUTPUT) else sys.stdout)
    console.print(title, style="bold")
    console.print()
    console.print(figures_table(rows, console.width))
    console.print()
    console.print(server_table(rows, console.width))
    for line in remarks(rows):
        console.print(line)


def _write_json(out: Path, values: dict[str, Any]) -> None:
    """Writes everything.

    Raises:
        typer.Exit: The file cannot be written.
    """
    if out == Path(STANDARD_OUTPUT):
        print_json(values)
        return
    try:
        out.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as exc:
        fail(f"--json: {str(out)!r} cannot be written: {exc.strerror or exc}.")


def _title(model: ModelInfo, equipment: Equipment) -> str:
    requests = equipment.requests
    count = requests[0].images
    kilobytes = sum(len(request.body) for request in requests) / len(requests) / 1000
    provider = model.provider.removesuffix("ExecutionProvider")
    return (
        f"{named(model.name)} v{model.version} at {equipment.address} ({named(provider)}): requests of {count:,} "
        f"image{'s' if count > 1 else ''}, {kilobytes:,.1f} kB"
    )


def _facts(model: ModelInfo) -> dict[str, Any]:
    """What the server says of the model; of its names only how many there are."""
    facts = model.to_dict()
    return {**facts, "labels": len(model.labels), "keypoint_names": len(model.keypoint_names)}


def _settings(question: Question, plan: Plan, rules: Rules, timeout_seconds: float) -> dict[str, Any]:
    """The options as they were given, or chosen where they were not."""
    return {
        **asdict(plan),
        "loads": [load.to_dict() for load in plan.loads],
        "max_in_flight": rules.max_in_flight,
        "drain_seconds": rules.drain_seconds,
        "task": question.task,
        "options": question.options,
        "regions": question.regions,
        "images_per_request": question.images_per_request,
        "raw": question.raw,
        "timeout_seconds": timeout_seconds if math.isfinite(timeout_seconds) else None,
    }


def _requests(equipment: Equipment) -> dict[str, Any]:
    sizes = [len(request.body) for request in equipment.requests]
    return {"distinct": len(sizes), "mean_bytes": round(sum(sizes) / len(sizes)), "largest_bytes": max(sizes)}
