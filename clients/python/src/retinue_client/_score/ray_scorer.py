"""Runs a job on a Ray cluster: Ray Data hands parts to workers, and this process gives them their names in order.

Only where it is asked for is `ray` imported.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import pyarrow as pa

from retinue_client._errors import RetinueError, ServerError
from retinue_client._models import ModelInfo
from retinue_client._score.account import Account
from retinue_client._score.disk import Disk
from retinue_client._score.errors import ScoreError
from retinue_client._score.journal import Journal, PartRecord
from retinue_client._score.limit import ErrorLimit
from retinue_client._score.outputs.output import Output
from retinue_client._score.ray_worker import EnginePlan, PartPlan, PartScorer, find_model
from retinue_client._score.sample import Sample
from retinue_client._score.sources.entry import Source
from retinue_client._score.thread import in_thread

_HERE = "local"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: Of the cluster, as Ray takes it: `auto` for the one that this machine belongs to, `local` for one that
            is made on this machine and goes with the job.
        cores: Processor cores of a worker.
        gpus: GPUs of a worker; a part of one where several share it.
        max_workers: The most workers at once; None for as many as there is room for.
    """

    address: str
    cores: int = 1
    gpus: float = 0.0
    max_workers: int | None = None


class RayScorer:
    """Scores the parts of a job on a cluster.

    Args:
        cluster: Where.
        plan: What workers answer with.

    Attributes:
        engine: That.

    Raises:
        ServerError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, cluster: Cluster, plan: EnginePlan) -> None:
        self._cluster = cluster
        self.engine = plan
        # Nothing is sent to Ray's makers on account of this command, and what it says goes into Ray's own logs.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # What still runs when this leaves the cluster would make a new one.
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
        self._ray = _imported("ray")
        self._data = _imported("ray.data")
        # What it raises is told anyway.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        self._closed = False

    async def find_model(self) -> ModelInfo:
        """The model that a worker finds.

        Raises:
            ServerError: It finds none, or there is no cluster.
        """
        found = await asyncio.to_thread(self._find_model)
        if not isinstance(found, ModelInfo):
            raise ServerError(found, reason="WORKER_FAILED")
        return found

    async def score(
        self,
        plan: PartPlan,
        rows_a_part: int,
        journal: Journal,
        output: Output,
        account: Account,
        limit: ErrorLimit,
        sample: Sample | None,
    ) -> None:
        """Scores what the journal does not have yet, and notes each part there, in order.

        Raises:
            RetinueError: The cluster gave up.
            ScoreError: A worker cannot make its parts, or too many images have failed.
            OSError: A part cannot be given its name.
        """
        scoring = asyncio.ensure_future(
            in_thread(self._score, plan, rows_a_part, journal, output, account, limit, sample)
        )
        try:
            await asyncio.shield(scoring)
        except asyncio.CancelledError:
            # Without a cluster the thread gets no more parts; it may be giving one its name yet.
            await asyncio.gather(scoring, self.close(), return_exceptions=True)
            raise

    async def close(self) -> None:
        """Leaves the cluster; what runs there for the job ends."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._ray.shutdown)

    def _find_model(self) -> ModelInfo | str:
        self._connect()
        look = self._ray.remote(num_cpus=self._cluster.cores, num_gpus=self._cluster.gpus)(find_model)
        try:
            found: ModelInfo | str = self._ray.get(look.remote(self.engine))
        except self._ray.exceptions.RayError as exc:
            raise _explained(exc) from exc
        return found

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self._cluster.address == _HERE:
            options["include_dashboard"] = False
        try:
            self._ray.init(address=self._cluster.address, **options)
        except Exception as exc:  # Ray has no class for a node that does not start
            if self._cluster.address == _HERE:
                told = f"Ray cannot be started on this machine: {exc}"
            else:
                told = (
                    f"There is no Ray cluster at {self._cluster.address!r} ({exc}). Start one with `ray start`, or "
                    "say --ray local."
                )
            raise ServerError(told, reason="CLUSTER_UNREACHABLE") from exc

    def _score(
        self,
        plan: PartPlan,
        rows_a_part: int,
        journal: Journal,
        output: Output,
        account: Account,
        limit: ErrorLimit,
        sample: Sample | None,
    ) -> None:
        self._connect()
        waiting: dict[int, dict[str, Any]] = {}
        try:
            for row in self._made(plan, rows_a_part, journal):
                if self._closed:
                    return
                made = json.loads(row["made"])
                if "failure" in made:
                    raise ScoreError(f"A worker cannot go on: {made['failure']}")
                waiting[made["record"]["part"]] = made
                while (following := waiting.pop(journal.parts, None)) is not None:
                    _commit(following, journal, output, account, sample)
                    limit.check(account.failed, account.images)
        except self._ray.exceptions.RayError as exc:
            raise _explained(exc) from exc
        if waiting:
            raise ServerError(f"The cluster lost part {journal.parts}.", reason="WORKER_FAILED")

    def _made(self, plan: PartPlan, rows_a_part: int, journal: Journal) -> Iterator[dict[str, Any]]:
        context = self._data.DataContext.get_current()
        context.enable_progress_bars = False
        # A part is a few bytes here and minutes of work: each must be a block, so that it goes where there is room.
        context.target_max_block_size = 1
        cluster = self._cluster
        parts = self._data.read_datasource(
            _parts_datasource(self._data, plan.source, rows_a_part, journal), num_cpus=0
        )
        workers = self._data.ActorPoolStrategy(min_size=1, max_size=cluster.max_workers)
        return iter(
            parts.map_batches(
                PartScorer,
                fn_constructor_args=(plan,),
                batch_size=1,
                compute=workers,
                num_cpus=cluster.cores,
                num_gpus=cluster.gpus or None,
            ).iter_rows()
        )


def cut(
    source: Source, rows_a_part: int, *, after: Any, first_part: int, first_row: int
) -> Iterator[dict[str, Any]]:
    """The parts that a source is cut into from a cursor on, as `PartScorer` takes them.

    Args:
        source: The images.
        rows_a_part: How many each part has, but the last.
        after: A cursor, or None for the beginning.
        first_part: The number of the first of them.
        first_row: How many rows the parts before have.
    """
    part, rows, cursor = first_part, 0, after
    for entry in source.entries(after):
        rows += 1
        cursor = entry.cursor
        if rows == rows_a_part:
            yield {"part": part, "first_row": first_row, "rows": rows, "after": json.dumps(after)}
            part, first_row, rows, after = part + 1, first_row + rows, 0, cursor
    if rows:
        yield {"part": part, "first_row": first_row, "rows": rows, "after": json.dumps(after)}


def _parts_datasource(data: Any, source: Source, rows_a_part: int, journal: Journal) -> Any:
    """The parts that are left, as Ray Data reads them: one after the other, so that a source of any size will do."""
    after = None if journal.last is None else journal.last.cursor
    first_part, first_row = journal.parts, journal.rows

    def read() -> Iterator[Any]:
        for part in cut(source, rows_a_part, after=after, first_part=first_part, first_row=first_row):
            yield pa.Table.from_pylist([part])

    class PartsDatasource(data.Datasource):  # type: ignore[misc]
        def get_name(self) -> str:
            return "Parts"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            block = import_module("ray.data.block")
            facts = block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [data.ReadTask(read, facts)]

    return PartsDatasource()


def _commit(
    made: dict[str, Any],
    journal: Journal,
    output: Output,
    account: Account,
    sample: Sample | None = None,
) -> None:
    """Gives a part its name and notes it. Killed in between, the part is made again."""
    record = PartRecord(**made["record"])
    disk = Disk(journal.disk.root, made["aside"])
    output.keep(disk, record.part)
    disk.remove(made["aside"])
    if sample is not None:
        sample.merge(Sample.from_state(made["sample"]))
        sample.save(journal.disk)
    journal.add(replace(record, state=account.add_part(record.state)))


def _explained(error: BaseException) -> RetinueError:
    cause: BaseException = getattr(error, "cause", None) or error
    text = str(cause).strip().splitlines()
    return ServerError(
        f"The Ray job failed: {text[-1] if text else type(cause).__name__}", reason="CLUSTER_FAILED"
    )


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise ServerError(
            f'--ray needs Ray, of which {exc.name or name} is missing: pip install "retinue-client[ray]".',
            reason="RAY_MISSING",
        ) from exc
