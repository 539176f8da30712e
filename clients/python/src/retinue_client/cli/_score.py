"""The command `retinue score`."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue_client import RetinueError
from retinue_client._score.account import Account
from retinue_client._score.errors import DestinationError, ScoreError
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.outputs.forms import Form, form_of
from retinue_client._score.ray_scorer import RayScorer
from retinue_client._score.report import REPORT
from retinue_client._score.scorer import ScoreOptions, Scorer
from retinue_client._score.sources.columns import Columns
from retinue_client._score.sources.opening import STANDARD_INPUT, SourceFormat, SourceOptions, open_source
from retinue_client._score.sources.walk import IMAGE_SUFFIXES
from retinue_client._score.summary import Summary
from retinue_client.cli._console import console_for
from retinue_client.cli._exit import EXIT_ALL_ANSWERED, EXIT_INTERRUPTED, EXIT_SOME_FAILED, fail
from retinue_client.cli._options import (
    DEFAULT_TIMEOUT,
    Classes,
    MaxDetections,
    MinScore,
    Model,
    ModelVersion,
    PriorityOption,
    TaskName,
    Threshold,
    Timeout,
    TopK,
    options_of_task,
)
from retinue_client.cli._progress import Show, ending
from retinue_client.cli._score_run import Plan, Run
from retinue_client.cli._scorer import (
    Local,
    ModelsFolder,
    RayAddress,
    RayCores,
    RayGpus,
    RayWorkers,
    Servers,
    Where,
    absolute,
    cluster_of,
    scorer_of,
)


def _parse_limit(text: str) -> ErrorLimit:
    try:
        return ErrorLimit.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no limit: give a number, as 100, or a share, as 1%.") from exc


def score(  # noqa: PLR0913 (a command's options are its parameters)
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, with its subfolders; a pattern ('photos/**/*.jpg'); tar files ('shards-{000..099}.tar'); a "
            "Parquet, CSV or JSONL file with a column of paths or images; a list of paths (.txt); a URL of any of "
            "these; - reads a list of paths from standard input.",
        ),
    ],
    *,
    task: Annotated[TaskName, typer.Option("--task", "-t", help="The question.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DEST", help="The results: a folder of files, each there as a whole."
        ),
    ],
    form: Annotated[
        Form | None,
        typer.Option("--format", help="How results are written; by DEST's suffix, or else Parquet."),
    ] = None,
    model: Model = "",
    model_version: ModelVersion = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    threshold: Threshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    source_format: Annotated[
        SourceFormat | None,
        typer.Option("--source-format", help="What SOURCE's files are, where their names do not tell."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", metavar="NAME", help="The column of a list that has the images; as SOURCE::NAME."
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column", metavar="NAME", help="The column that says what rows are called in the results."
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Read URLs that stand in a list; else they are errors.")
    ] = False,
    all_files: Annotated[
        bool, typer.Option("--all-files", help="Take every file, not only those named like images.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Begin anew where DEST has results, instead of going on with them."),
    ] = False,
    max_errors: Annotated[
        Any,
        typer.Option(
            "--max-errors",
            metavar="N|P%",
            parser=_parse_limit,
            help="End the job once so many images, or such a share of them, have failed; by default none does.",
        ),
    ] = None,
    rows_per_part: Annotated[
        int,
        typer.Option(
            "--rows-per-part", min=1, help="How many rows a file of results has; so much is lost in a crash."
        ),
    ] = 10_000,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", min=1, help="The most images under way at once, at each server.")
    ] = 1024,
    patience: Annotated[
        float,
        typer.Option("--patience", metavar="SECONDS", min=0, help="How long to wait for a silent server."),
    ] = 120.0,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write a page about the results, with a sample drawn."),
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but why the job ended, where it failed.")
    ] = False,
    json_progress: Annotated[
        bool,
        typer.Option("--json-progress", help="Say how far it is on standard error, a JSON object a line."),
    ] = False,
    priority: PriorityOption = "low",
    server: Servers = None,
    local: Local = False,
    models: ModelsFolder = None,
    ray: RayAddress = None,
    ray_cpus: RayCores = 1,
    ray_gpus: RayGpus = 0.0,
    ray_workers: RayWorkers = None,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Score millions of images into a folder of files, each image exactly once.

    Every image gets one row, in the order of the source: a result, or the reason why there is none. A job that ended
    early, however it did, goes on when the same command is given again.
    """
    options: dict[str, Any] = {"model": model, "version": model_version, "priority": priority}
    options |= options_of_task(
        task,
        {
            "--top-k": ("top_k", {TaskName.CLASSIFY}, top_k),
            "--min-score": ("min_score", {TaskName.CLASSIFY}, min_score),
            "--threshold": ("score_threshold", {TaskName.DETECT}, threshold),
            "--max-detections": ("max_detections", {TaskName.DETECT}, max_detections),
            "--class": ("classes", {TaskName.DETECT, TaskName.SEGMENT}, classes),
        },
    )
    if quiet and json_progress:
        fail("--quiet and --json-progress exclude each other.")
    if ray is not None:
        if source == STANDARD_INPUT:
            fail("--ray cannot read standard input, which its workers do not have: name files.")
        source, out = absolute(source), out.absolute()
    show = Show.NOTHING if quiet else Show.JSON if json_progress else Show.SCREEN
    try:
        chosen = form_of(form, out, task.value)
        if not out.absolute().parent.is_dir():
            fail(f"--out: there is no folder {str(out.parent)!r}.")
        if task is TaskName.SEGMENT:
            options["mask_format"] = "png" if chosen is Form.MASKS else "coco_rle"
        source_options = SourceOptions(
            source_format, Columns(column, id_column, allow_urls), all_files=all_files, leave_out=out
        )
        plan = Plan(
            source=open_source(source, source_options),
            source_options=_facts_of(source_options),
            out=out,
            form=chosen,
            rows_per_part=rows_per_part,
            options=ScoreOptions(task.value, options, max_in_flight=max_in_flight, patience_seconds=patience),
            limit=max_errors or ErrorLimit(),
            overwrite=overwrite,
            show=show,
            report=report,
        )
    except ScoreError as error:
        fail(str(error))
    except OSError as exc:
        fail(f"{exc.filename or source}: {exc.strerror or exc}.")
    account = Account()
    where = Where(server, local, models, cluster_of(ray, ray_cpus, ray_gpus, ray_workers))
    scorer = scorer_of(plan.options, account, timeout, where)
    _carry_out(plan, account, scorer, all_files=all_files)


def _facts_of(options: SourceOptions) -> dict[str, Any]:
    """How the source is read, as far as it was said, for the journal."""
    facts = {
        "source_format": None if options.format is None else str(options.format),
        "column": options.columns.image,
        "id_column": options.columns.key,
        "allow_urls": options.columns.urls,
        "all_files": options.all_files,
    }
    return {name: value for name, value in facts.items() if value}


def _carry_out(plan: Plan, account: Account, scorer: Scorer | RayScorer, *, all_files: bool) -> None:
    """Runs the plan, and ends the command with its exit code."""
    run = Run(plan, account)
    # Those who stop jobs for others send this one.
    terminate = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        summary = asyncio.run(run.carry_out(scorer))
    except KeyboardInterrupt:
        text = f"retinue: interrupted. {_how_to_go_on(plan)}".strip()
        console_for(sys.stderr).print(text, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RetinueError as error:
        fail(f"{error.message} {_how_to_go_on(plan)}".strip())
    except DestinationError as error:
        # What is there is not this job's, or no job's any more.
        fail(str(error))
    except ScoreError as error:
        fail(f"{error} {_how_to_go_on(plan)}".strip())
    except OSError as exc:
        fail(f"{exc.filename or plan.out}: {exc.strerror or exc}. {_how_to_go_on(plan)}".strip())
    finally:
        signal.signal(signal.SIGTERM, terminate)
    if summary is None:
        if plan.show is Show.SCREEN:
            failed = f", {account.failed:,} of them failed" if account.failed else ""
            text = f"{plan.out} is finished: {run.earlier_rows:,} rows{failed}. --overwrite scores anew."
            console_for(sys.stdout).print(text, soft_wrap=True)
        raise typer.Exit(EXIT_SOME_FAILED if account.failed else EXIT_ALL_ANSWERED)
    _finish(plan, summary, all_files=all_files)


def _how_to_go_on(plan: Plan) -> str:
    """What is there of the job, for one that ended early."""
    journal = plan.out / "_journal.jsonl"
    if not journal.exists():
        return ""
    command = "the same command without --overwrite" if plan.overwrite else "the same command"
    return f"What is done is in {plan.out}; {command} goes on with it."


def _finish(plan: Plan, summary: Summary, *, all_files: bool) -> None:
    """Says how it went, and ends the command with its exit code."""
    if summary.images == 0:
        advice = (
            ""
            if all_files
            else f" named like images ({', '.join(sorted(IMAGE_SUFFIXES))}); --all-files takes every file"
        )
        fail(f"{plan.source.name} has no files{advice}.")
    text = f"{ending(summary)}; results in {plan.out}"
    if plan.report:
        text += f", report in {plan.out / REPORT}"
    if len(summary.versions) > 1:
        shares = ", ".join(
            f"{count:,} of version {version}" for version, count in sorted(summary.versions.items())
        )
        text += f". The rows are of several versions, {shares}; --model-version has all of them of one"
    if plan.show is Show.SCREEN:
        console_for(sys.stdout).print(text, soft_wrap=True)
    raise typer.Exit(EXIT_SOME_FAILED if summary.failed else EXIT_ALL_ANSWERED)
