"""Which forms of results there are, and which one is meant."""

from enum import StrEnum
from pathlib import Path

from retinue_client._models import Task
from retinue_client._score.errors import DestinationError
from retinue_client._score.outputs.coco import CocoOutput
from retinue_client._score.outputs.jsonl import JsonlOutput
from retinue_client._score.outputs.masks import MasksOutput
from retinue_client._score.outputs.output import Output
from retinue_client._score.outputs.parquet import ParquetOutput


class Form(StrEnum):
    """A form of results."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    COCO = "coco"
    MASKS = "masks"


_SUFFIXES = {".parquet": Form.PARQUET, ".jsonl": Form.JSONL, ".json": Form.COCO}
_TASKS = {Form.COCO: "detect", Form.MASKS: "segment"}


def form_of(form: Form | None, out: Path, task: Task) -> Form:
    """The form that was named, or the one that the destination's name tells, or Parquet.

    Raises:
        DestinationError: Results of the task have no such form.
    """
    chosen = form or _SUFFIXES.get(out.suffix.lower(), Form.PARQUET)
    wanted = _TASKS.get(chosen, task)
    if wanted != task:
        raise DestinationError(f"The format {chosen} is for --task {wanted}, not for {task}.")
    return chosen


def output_of(form: Form, task: Task, metadata: dict[str, str]) -> Output:
    """What writes results of a task in a form.

    Args:
        form: The form.
        task: The task.
        metadata: Facts of the job, for forms that have a place for them.
    """
    if form is Form.PARQUET:
        return ParquetOutput(task, metadata)
    if form is Form.JSONL:
        return JsonlOutput(task)
    return CocoOutput() if form is Form.COCO else MasksOutput()
