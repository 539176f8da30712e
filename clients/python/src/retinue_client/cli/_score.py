"""The command `retinue score`."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue_client import RetinueError, __version__
from retinue_client._models import ModelInfo
from retinue_client._score.account import Account
from retinue_client._score.document import JobFacts, write_summary
from retinue_client._score.files import IMAGE_SUFFIXES, Entry, walk
from retinue_client._score.job import Job
from retinue_client._score.rows import schema_of
from retinue_client._score.scorer import ScoreOptions, Scorer
from retinue_client._score.summary import Summary
from retinue_client._score.table import Table, partial_path_of
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
from retinue_client.cli._progress import ScoreProgress, Show, ending
from retinue_client.cli._scorer import Local, ModelsFolder, Servers, scorer_of


def score(  # noqa: PLR0913 (a command's options are its parameters)
    folder: Annotated[Path, typer.Argument(metavar="INPUT_DIR", help="The folder; subfolders are included.")],
    *,
    task: Annotated[TaskName, typer.Option("--task", "-t", help="The question.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RESULTS.parquet", help="The results' file.")],
    model: Model = "",
    model_version: ModelVersion = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    threshold: Threshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    all_files: Annotated[
        bool, typer.Option("--all-files", help="Take every file, not only those named like images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results' file.")] = False,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", min=1, help="The most images under way at once, at each server.")
    ] = 1024,
    patience: Annotated[
        float,
        typer.Option("--patience", metavar="SECONDS", min=0, help="How long to wait for a silent server."),
    ] = 120.0,
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
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Score all images of a folder into a Parquet file.

    Every file gets one row, in order of its path: a result, or the reason why there is none.
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
    if task is TaskName.SEGMENT:
        options["mask_format"] = "coco_rle"
    if quiet and json_progress:
        fail("--quiet and --json-progress exclude each other.")
    show = Show.NOTHING if quiet else Show.JSON if json_progress else Show.SCREEN
    _check_paths(folder, out, overwrite)
    plan = _Plan(
        folder,
        out,
        all_files,
        ScoreOptions(task.value, options, max_in_flight=max_in_flight, patience_seconds=patience),
        show,
    )
    scorer = scorer_of(plan.options, plan.account, timeout, servers=server, local=local, models=models)
    try:
        summary = asyncio.run(plan.carry_out(scorer))
    except KeyboardInterrupt:
        console_for(sys.stderr).print(f"retinue: interrupted. {_where_rows_are(out)}", soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RetinueError as error:
        fail(f"{error.message} {_where_rows_are(out)}".strip())
    except OSError as exc:
        fail(f"{exc.filename or out}: {exc.strerror or exc}.")
    _finish(plan, summary)


class _Plan:
    """One run of the command."""

    def __init__(self, folder: Path, out: Path, all_files: bool, options: ScoreOptions, show: Show) -> None:
        self.folder = folder
        self.out = out
        self.all_files = all_files
        self.options = options
        self.show = show
        self.account = Account()

    def entries(self) -> Iterator[Entry]:
        """The files, in order; never those that the job itself writes."""
        root, own = self.folder.resolve(), self.out.resolve()
        leave_out = frozenset[Path]()
        if own.is_relative_to(root):
            inside = self.folder / own.relative_to(root)
            leave_out = frozenset({inside, partial_path_of(inside), _summary_path(inside)})
        return walk(self.folder, all_files=self.all_files, leave_out=leave_out)

    async def carry_out(self, scorer: Scorer) -> Summary:
        """Scores the files into the table. The table keeps its partial name where this does not succeed."""
        try:
            # First, for a table takes the place of what an earlier run may have left.
            model = await scorer.find_model()
            table = Table(self.out, schema_of(self.options.task, self._metadata()))
            try:
                async with ScoreProgress(self.account, self.show, sys.stderr) as progress:
                    await self._run(scorer, table, progress)
                if self.account.images == 0:
                    table.discard()
                else:
                    with self.account.timing("writing"):
                        table.commit()
            except OSError:
                table.discard()
                raise
            except BaseException:
                table.leave()
                raise
        finally:
            await scorer.close()
        return self._sum_up(model, progress)

    async def _run(self, scorer: Scorer, table: Table, progress: ScoreProgress) -> None:
        count = asyncio.get_running_loop().run_in_executor(None, self._count)
        count.add_done_callback(progress.count_done)
        job = Job(scorer, self.folder, self.options.task, self.account, progress.add)
        await job.run(self.entries(), table)

    def _sum_up(self, model: ModelInfo, progress: ScoreProgress) -> Summary:
        """Writes the summary beside the results."""
        self.account.close_part()
        summary = self.account.total()
        if summary.images:
            facts = JobFacts(
                self.options.task, str(self.folder), str(self.out), self._given_options(), model, __version__
            )
            progress.end(write_summary(_summary_path(self.out), facts, summary))
        return summary

    def _count(self) -> int:
        return sum(1 for _ in self.entries())

    def _metadata(self) -> dict[str, str]:
        return {
            "retinue.task": self.options.task,
            "retinue.client": __version__,
            "retinue.options": json.dumps(self._given_options()),
        }

    def _given_options(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.options.items() if value not in (None, "")}


def _check_paths(folder: Path, out: Path, overwrite: bool) -> None:
    """Refuses what cannot work before the server is asked for anything.

    Raises:
        typer.Exit: The message says what is wrong with which path.
    """
    try:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            fail(f"INPUT_DIR: {str(folder)!r} {what}.")
        next(folder.iterdir(), None)
        if out.suffix.lower() != ".parquet":
            fail(f"--out: {str(out)!r}: results are Parquet; end it in .parquet.")
        if not out.parent.is_dir():
            fail(f"--out: there is no folder {str(out.parent)!r}.")
        if out.is_dir():
            fail(f"--out: {str(out)!r} is a folder.")
        if out.exists() and not overwrite:
            fail(f"--out: {str(out)!r} exists; --overwrite replaces it, once the new results are complete.")
    except OSError as exc:
        fail(f"{exc.filename}: {exc.strerror}.")


def _summary_path(out: Path) -> Path:
    """Where the summary is, beside the results."""
    return out.with_name(out.name + ".summary.json")


def _where_rows_are(out: Path) -> str:
    partial = partial_path_of(out)
    return f"The rows so far are in {partial}." if partial.exists() else ""


def _finish(plan: _Plan, summary: Summary) -> None:
    """Says how it went, and ends the command with its exit code."""
    if summary.images == 0:
        advice = (
            ""
            if plan.all_files
            else (f" named like images ({', '.join(sorted(IMAGE_SUFFIXES))}); --all-files takes every file")
        )
        fail(f"{plan.folder} has no files{advice}.")
    text = f"{ending(summary)}; results in {plan.out}"
    if len(summary.versions) > 1:
        shares = ", ".join(
            f"{count:,} of version {version}" for version, count in sorted(summary.versions.items())
        )
        text += f". The rows are of several versions, {shares}; --model-version has all of them of one"
    if plan.show is Show.SCREEN:
        console_for(sys.stdout).print(text, soft_wrap=True)
    raise typer.Exit(EXIT_SOME_FAILED if summary.failed else EXIT_ALL_ANSWERED)
