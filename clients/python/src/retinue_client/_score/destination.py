"""Where the results of a job go: a folder that belongs to one job, and to one process at a time."""

import fcntl
import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from retinue_client._score.disk import ASIDE, Disk
from retinue_client._score.journal import JOURNAL, Journal

_LOCK = "_lock"
# What jobs write, in all formats: nothing else is ever removed.
_OWN = re.compile(
    r"part-\d{6,}\.(parquet|jsonl)|_parts|masks|results\.json|dataset\.json|"
    r"_summary\.json|_report\.html|_sample|_tmp|_lock|_journal\.jsonl"
)


class DestinationError(Exception):
    """The folder cannot be written into as it is; the message says why and what to do."""


class Destination:
    """A folder of results, locked for this process until it is closed.

    What an earlier run of the same job has not ended is removed, what it has ended is kept.

    Args:
        disk: The folder, which is made where it is not there.
        job: What the job is: all that its rows depend on, as values that JSON knows.
        overwrite: Whether to begin anew whatever is there of an earlier job.

    Attributes:
        disk: The folder.
        journal: What has been done.

    Raises:
        DestinationError: Another process writes there, another job has, or something that is no result lies there.
        JournalError: The journal is damaged.
        OSError: The folder cannot be made, read or written.
    """

    def __init__(self, disk: Disk, job: dict[str, Any], *, overwrite: bool = False) -> None:
        self.disk = disk
        job = json.loads(json.dumps(job))
        self._made = not disk.root.exists()
        if not self._made and not disk.root.is_dir():
            raise DestinationError(f"{str(disk.root)!r} is a file; results are a folder.")
        if not self._made:
            self._refuse_foreign()
        disk.root.mkdir(exist_ok=True)
        self._lock = _locked(disk.root / _LOCK)
        try:
            self.journal = self._open_journal(job, overwrite)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets others have the folder."""
        self._lock.close()

    def forsake(self) -> None:
        """Leaves nothing behind, where there was nothing to score."""
        for name in (ASIDE, JOURNAL, _LOCK):
            self.disk.remove(name)
        if self._made:
            self.disk.root.rmdir()
        self.close()

    def _open_journal(self, job: dict[str, Any], overwrite: bool) -> Journal:
        journal = None
        if overwrite:
            # First: without it, all else counts for nothing should this run not get to the end of removing it.
            self.disk.remove(JOURNAL)
        else:
            journal = Journal.read(self.disk)
            if journal is not None:
                _refuse_another_job(self.disk.root, journal.job, job)
        if journal is None:
            self._clear(overwrite)
            return Journal.begin(self.disk, job)
        self._remove_unfinished(journal.parts)
        return journal

    def _clear(self, overwrite: bool) -> None:
        """Removes what an earlier job has left.

        Raises:
            DestinationError: There is something and it is not to be overwritten.
        """
        left = [name for name in self.disk.names() if name != _LOCK]
        if left and not overwrite:
            raise DestinationError(
                f"{str(self.disk.root)!r} holds results without a journal ({min(left)}, ...), so nothing can be "
                "added to them. Name another folder, or --overwrite them."
            )
        for name in left:
            self.disk.remove(name)

    def _remove_unfinished(self, parts: int) -> None:
        """Removes what the journal does not speak of: what was written aside, and parts that were not noted yet."""
        self.disk.remove(ASIDE)
        for folder in ("", "_parts", "masks"):
            for name in list(self.disk.names(folder)):
                part = re.fullmatch(r"part-(\d+)(\..*)?", name)
                if part and int(part[1]) >= parts:
                    self.disk.remove(os.path.join(folder, name))

    def _refuse_foreign(self) -> None:
        foreign = sorted(name for name in self.disk.names() if not _OWN.fullmatch(name))
        if foreign:
            raise DestinationError(
                f"{str(self.disk.root)!r} holds other things, {foreign[0]!r} for one: name a folder of its own."
            )


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.seek(0)
        who = file.read(64).decode("ascii", "replace").strip()
        file.close()
        if not isinstance(exc, BlockingIOError):
            raise
        raise DestinationError(
            f"Another job writes to {str(path.parent)!r}{f' (process {who})' if who else ''}."
        ) from exc
    file.truncate(0)
    file.write(str(os.getpid()).encode("ascii"))
    file.flush()
    return file


def _refuse_another_job(root: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f"{name} was {begun.get(name)!r} and is {wanted.get(name)!r}"
        for name in {**begun, **wanted}
        if begun.get(name) != wanted.get(name)
    ]
    if differences:
        raise DestinationError(
            f"{str(root)!r} holds the results of another job: {'; '.join(differences)}. Name another folder, or "
            "--overwrite them."
        )
