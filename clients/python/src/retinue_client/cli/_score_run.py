"""One run of `retinue score`, from the folder of results to the last word on the screen."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from retinue_client import __version__
from retinue_client._models import ModelInfo
from retinue_client._score.account import Account
from retinue_client._score.destination import Destination
from retinue_client._score.disk import Disk
from retinue_client._score.document import JobFacts, write_summary
from retinue_client._score.job import Job
from retinue_client._score.journal import Journal, PartRecord
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.outputs.forms import Form, output_of
from retinue_client._score.outputs.output import Output
from retinue_client._score.parts import Parts
from retinue_client._score.ray_scorer import RayScorer
from retinue_client._score.ray_worker import PartPlan, facts_of
from retinue_client._score.report import write_report
from retinue_client._score.sample import SAMPLE, Sample
from retinue_client._score.scorer import ScoreOptions, Scorer
from retinue_client._score.sources.entry import Source
from retinue_client._score.sources.standard_input import StandardInput
from retinue_client._score.summary import Summary
from retinue_client._score.thread import in_thread
from retinue_client.cli._progress import ScoreProgress, Show

# They say how soon an answer comes, or from where, and nothing of what it is.
_WITHOUT_EFFECT = ("priority",)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do.

    Attributes:
        source: The images.
        source_options: How they are found, as far as rows depend on it, as values that JSON knows.
        out: The results' folder.
        form: The results' form.
        rows_per_part: How many rows a part has.
        options: The question.
        limit: How many images may fail.
        overwrite: Whether to begin anew whatever is there.
        show: How to show how far it is.
        report: Whether to write a page about the results, with a sample drawn.
    """

    source: Source
    source_options: dict[str, Any]
    out: Path
    form: Form
    rows_per_part: int
    options: ScoreOptions
    limit: ErrorLimit
    overwrite: bool
    show: Show
    report: bool = True

    def given_options(self) -> dict[str, Any]:
        """The question's options that were given."""
        return {name: value for name, value in self.options.options.items() if value not in (None, "")}

    def job(self) -> dict[str, Any]:
        """All that the rows depend on, as it was asked for: who goes on with a job must ask for the same."""
        options = self.given_options()
        return {
            "task": str(self.options.task),
            "options": {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT},
            "source": self.source.name,
            **self.source_options,
            "format": str(self.form),
            "rows_per_part": self.rows_per_part,
        }


class Run:
    """Carries out a plan, or goes on with what an earlier run has left of it.

    Args:
        plan: What to do.
        account: Takes down what is done; a scorer's answers, too.

    Attributes:
        earlier_rows: How many rows were there when it began.
    """

    def __init__(self, plan: Plan, account: Account) -> None:
        self._plan = plan
        self._account = account
        self._sample: Sample | None = None
        self.earlier_rows = 0

    async def carry_out(self, scorer: Scorer | RayScorer) -> Summary | None:
        """Scores what is left.

        Returns:
            How all runs together went, or None where the job had been finished before this run.

        Raises:
            RetinueError: The question as such is refused, or nothing answers any more.
            ScoreError: Source or destination will not do, or too many images have failed.
            OSError: Something cannot be read or written.
        """
        try:
            return await self._carry_out(scorer)
        finally:
            # Also where the folder is refused, or there is nothing to do.
            if isinstance(self._plan.source, StandardInput):
                self._plan.source.close()
            await scorer.close()

    async def _carry_out(self, scorer: Scorer | RayScorer) -> Summary | None:
        plan = self._plan
        disk = Disk(plan.out.absolute())
        with Destination(
            disk, plan.job(), overwrite=plan.overwrite, on_part=self._take_earlier
        ) as destination:
            self.earlier_rows = destination.rows
            if destination.is_finished:
                return None
            try:
                model = await scorer.find_model()
                self._account.begin()
                journal = destination.begin(facts_of(model))
                if plan.report:
                    self._sample = Sample.load(disk)
                output = output_of(plan.form, plan.options.task, self._metadata())
                async with ScoreProgress(self._account, plan.show, sys.stderr) as progress:
                    with _counting(plan.source, progress):
                        await self._score(scorer, disk, output, journal, progress)
                if journal.rows:
                    await in_thread(self._finish, disk, output, journal, model, progress)
            finally:
                # Before others have the folder: workers of a cluster write there.
                await scorer.close()
        return self._account.total()

    async def _score(
        self,
        scorer: Scorer | RayScorer,
        disk: Disk,
        output: Output,
        journal: Journal,
        progress: ScoreProgress,
    ) -> None:
        plan = self._plan
        if isinstance(scorer, RayScorer):
            parts_plan = PartPlan(
                scorer.engine,
                journal.model,
                plan.source,
                plan.out.absolute(),
                plan.form,
                self._metadata(),
                with_sample=plan.report,
            )
            await scorer.score(
                parts_plan, plan.rows_per_part, journal, output, self._account, plan.limit, self._sample
            )
            return
        parts = Parts(disk, output, journal, plan.rows_per_part, partial(self._end_part, disk))
        job = Job(scorer, plan.options.task, self._account, parts, plan.limit, progress.add, self._sample)
        await job.run(plan.source, None if journal.last is None else journal.last.cursor)

    def _end_part(self, disk: Disk) -> dict[str, Any]:
        """What is kept of a part over a restart; the sample first, so that it lacks none of its images."""
        if self._sample is not None:
            self._sample.save(disk)
        return self._account.close_part()

    def _finish(
        self, disk: Disk, output: Output, journal: Journal, model: ModelInfo, progress: ScoreProgress
    ) -> None:
        """Writes what is made of all parts; killed here, a run that goes on does it again."""
        output.finish(disk, journal.files(), model)
        plan = self._plan
        facts = JobFacts(
            plan.options.task, plan.source.name, str(plan.out), plan.given_options(), model, __version__
        )
        summary = self._account.total()
        if self._sample is not None:
            write_report(disk, facts, summary, self._sample)
        progress.end(write_summary(disk, facts, summary))
        journal.finish()
        disk.remove(SAMPLE)

    def _take_earlier(self, part: PartRecord) -> None:
        self._account.resume(part.state)

    def _metadata(self) -> dict[str, str]:
        return {
            "retinue.task": self._plan.options.task,
            "retinue.client": __version__,
            "retinue.options": json.dumps(self._plan.given_options()),
        }


@contextmanager
def _counting(source: Source, progress: ScoreProgress) -> Iterator[None]:
    """Counts a source meanwhile, in a thread that nobody waits for: a folder that is gone may never answer."""
    stopped = threading.Event()

    def count() -> None:
        # What cannot be counted cannot be read either, and the job says so.
        with suppress(Exception):
            progress.set_total(source.count(stopped.is_set))

    threading.Thread(target=count, name="counting", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()
