"""What a worker of a Ray cluster does: it makes whole parts with an engine of its own, and gives none of them its name.

The job's process alone does that, so that a worker that is taken for dead and is not can spoil nothing.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from retinue_client._errors import RetinueError
from retinue_client._models import ModelInfo
from retinue_client._score.account import Account
from retinue_client._score.cores import take_cores
from retinue_client._score.disk import ASIDE, Disk
from retinue_client._score.errors import ScoreError
from retinue_client._score.job import Job
from retinue_client._score.journal import PartRecord
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.local import LocalAsker, find_engine
from retinue_client._score.outputs.forms import Form, output_of
from retinue_client._score.parts import PartWriter
from retinue_client._score.remote import RemoteScorer
from retinue_client._score.rows import Row
from retinue_client._score.sample import Sample
from retinue_client._score.scorer import ScoreOptions
from retinue_client._score.sources.entry import Entry, Source, Stopped, never

MadeT = TypeVar("MadeT")


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What a worker answers with.

    Attributes:
        options: The question.
        arguments: Flags of `retinue-server`.
        cores: Processor cores of a worker, 0 for all of its machine.
    """

    options: ScoreOptions
    arguments: tuple[str, ...]
    cores: int


@dataclass(frozen=True, slots=True)
class PartPlan:
    """What all parts of a job have in common. It travels to the workers.

    Attributes:
        engine: What answers.
        model: What must answer, by name, version and hash.
        source: The images, which every worker can read.
        out: The results' folder, which every worker can write.
        form: The results' form.
        metadata: Facts of the job, for forms that have a place for them.
        with_sample: Whether to keep a few of the images with their results, for the report.
    """

    engine: EnginePlan
    model: dict[str, Any]
    source: Source
    out: Path
    form: Form
    metadata: dict[str, str]
    with_sample: bool = False


def facts_of(model: ModelInfo) -> dict[str, Any]:
    """What a model is known by in a journal."""
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def find_model(plan: EnginePlan) -> ModelInfo | str:
    """The model that a worker finds, or why it finds none."""
    # The process that looks stays when it is done: cores that it took would be no worker's.
    engine = _Engine(replace(plan, cores=0))
    try:
        return engine.wait_for(engine.scorer.find_model())
    except RetinueError as error:
        return error.message
    finally:
        engine.close()


class PartScorer:
    """Makes parts; Ray Data calls it with batches of one part each.

    Args:
        plan: What they have in common.
    """

    def __init__(self, plan: PartPlan) -> None:
        self._plan = plan
        self._engine = _Engine(plan.engine)
        self._checked = False
        # Of all parts that it makes, so that ever fewer images are drawn; which part they are of does not matter.
        self._sample = Sample() if plan.with_sample else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Makes the parts of a batch.

        Args:
            batch: `part`, `first_row`, `rows`, and `after`, a cursor as JSON; a value for each part.

        Returns:
            `made`: of each part a JSON object, either `aside`, `record` and `sample`, or `failure`, why it cannot be
                made at all.
        """
        columns = (batch[name].tolist() for name in ("part", "first_row", "rows", "after"))
        return {"made": [json.dumps(self._make(*part)) for part in zip(*columns, strict=True)]}

    def _make(self, part: int, first_row: int, rows: int, after: str) -> dict[str, Any]:
        aside = f"{ASIDE}/{uuid.uuid4().hex}"
        disk = Disk(self._plan.out, aside)
        output = output_of(self._plan.form, self._plan.engine.options.task, self._plan.metadata)
        try:
            if not self._checked:
                self._check_model()
            one = _OnePart(PartWriter(disk, output, part, first_row), rows, self._engine.account)
            job = Job(
                self._engine.scorer,
                self._plan.engine.options.task,
                self._engine.account,
                one,
                ErrorLimit(),
                _ignore,
                self._sample,
            )
            self._engine.wait_for(job.run(_Slice(self._plan.source, rows), json.loads(after)))
            _refuse_other_rows(one.record, rows)
        except RetinueError as error:
            return {"failure": error.message}
        except (ScoreError, OSError) as error:
            return {"failure": str(error)}
        assert one.record is not None
        sample = None if self._sample is None else self._sample.state()
        return {"aside": aside, "record": asdict(one.record), "sample": sample}

    def _check_model(self) -> None:
        found = facts_of(self._engine.wait_for(self._engine.scorer.find_model()))
        if found != self._plan.model:
            raise ScoreError(
                f"A worker has the model {found}, and the job is of {self._plan.model}: give all machines the same "
                "models folder."
            )
        self._checked = True


class _Engine:
    """An engine in an event loop of its own, since nobody says which thread Ray calls from."""

    def __init__(self, plan: EnginePlan) -> None:
        arguments = list(plan.arguments)
        if plan.cores:
            arguments += ["--instances", str(plan.cores)]
            take_cores(plan.cores)
        self.account = Account()
        engine = find_engine(arguments, plan.options.options["model"])
        asker = LocalAsker(engine, plan.options.task, plan.options.options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True)
        self._thread.start()
        self.scorer = self.wait_for(self._made(asker, plan.options))

    def wait_for(self, work: Coroutine[Any, Any, MadeT]) -> MadeT:
        """Runs it in the loop, and waits for its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Ends the engine and its loop."""
        self.wait_for(self.scorer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _made(self, asker: LocalAsker, options: ScoreOptions) -> RemoteScorer:
        return RemoteScorer([asker], options, self.account)


class _OnePart:
    """One part with a number of its own, where a job expects parts in a row: see `Parts`."""

    def __init__(self, writer: PartWriter, rows: int, account: Account) -> None:
        self._writer = writer
        self._rows = rows
        self._account = account
        self._cursor: Any = None
        self.record: PartRecord | None = None

    def room(self) -> int:
        """How many rows the part takes yet; more than it needs, so that it is sealed at its end only."""
        return self._rows + 1 - self._writer.rows

    def write(self, rows: list[Row], cursor: Any) -> None:
        """Adds rows."""
        self._writer.write(rows)
        self._cursor = cursor

    def keep(self) -> None:
        """Seals the part."""
        self.record = self._writer.seal(self._cursor, self._account.close_part())

    def drop(self) -> None:
        """Gives the part up, unless it is sealed."""
        if self.record is None:
            self._writer.drop()
            self._account.close_part()


class _Slice:
    """So many entries of a source: see `Source`."""

    def __init__(self, source: Source, rows: int) -> None:
        self.name = source.name
        self._source = source
        self._rows = rows

    def entries(self, after: Any) -> Iterator[Entry]:
        return islice(self._source.entries(after), self._rows)

    def count(self, stopped: Stopped = never) -> int:
        del stopped
        return self._rows


def _refuse_other_rows(record: PartRecord | None, rows: int) -> None:
    if record is None or record.rows != rows:
        made = 0 if record is None else record.rows
        raise ScoreError(
            f"A part of {rows:,} rows was cut from the source, of which a worker finds {made:,}: the source has "
            "changed meanwhile, or is not the same on all machines. Name another folder, or --overwrite the results."
        )


def _ignore(rows: list[Row]) -> None:
    """What a worker has to show, nobody sees."""
    del rows
