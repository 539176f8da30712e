"""Where the results of a job go: a folder that belongs to one job, and to one process at a time."""

import fcntl
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from retinue_client._score.disk import ASIDE, Disk, sync_folder
from retinue_client._score.errors import DestinationError
from retinue_client._score.journal import JOURNAL, Journal, PartRecord

_LOCK = "_lock"
# What jobs write, in all formats: nothing else is ever removed.
_OWN = re.compile(
    r"part-\d{6,}\.(parquet|jsonl)|_parts|masks|results\.json|dataset\.json|"
    r"_summary\.json|_report\.html|_sample\.json|_tmp|_lock|_journal\.jsonl"
)


class Destination:
    """A folder of results, locked for this process until it is closed.

    Args:
        disk: The folder, which is made where it is not there.
        job: What the job is: all that its rows depend on, as values that JSON knows.
        overwrite: Whether to begin anew whatever is there of an earlier job.
        on_part: Called with each part that is there and is kept, in order; what it raises ValueError of is damaged.

    Attributes:
        disk: The folder.

    Raises:
        DestinationError: Another process writes there, another job has, or something that is no result lies there.
        OSError: The folder cannot be made, read or written.
    """

    def __init__(
        self, disk: Disk, job: dict[str, Any], *, overwrite: bool, on_part: Callable[[PartRecord], None]
    ) -> None:
        self.disk = disk
        # As it is after it was written and read again.
        self._job: dict[str, Any] = json.loads(json.dumps(job))
        self._overwrite = overwrite
        self._made = not disk.root.exists()
        self._journal: Journal | None = None
        if not self._made:
            self._refuse_foreign()
        self._lock = _locked(disk.root)
        try:
            if not overwrite:
                self._journal = Journal.read(disk, on_part)
            if self._journal is not None:
                _refuse_another(disk.root, "another job", self._journal.job, self._job)
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return 0 if self._journal is None else self._journal.rows

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self._journal is not None and self._journal.finished

    def begin(self, model: dict[str, Any]) -> Journal:
        """Begins the job, or goes on with it: what an earlier run has ended is kept, what it has not is removed.

        Args:
            model: What answers, as values that JSON knows.

        Raises:
            DestinationError: What is there was answered by something else, or nothing says what it is.
            OSError: The folder cannot be written.
        """
        if self._journal is None:
            self._clear()
            self._journal = Journal.begin(self.disk, self._job, model)
        else:
            _refuse_another(self.disk.root, "another model", self._journal.model, model)
            self._remove_unfinished(self._journal.parts)
        return self._journal

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
        """Lets others have the folder. Where no part came about, nothing stays behind."""
        with self._lock:
            # The next run removes what cannot be removed now; why this one ended is not to be hidden by that.
            with suppress(OSError):
                self.disk.remove(ASIDE)
            is_empty = self._made if self._journal is None else self._journal.parts == 0
            if is_empty:
                self._remove_all()
            if is_empty and self._made:
                self.disk.remove(_LOCK)
                # Somebody may have put something there, or another job may have its lock there already.
                with suppress(OSError):
                    self.disk.root.rmdir()

    def _own_names(self) -> list[str]:
        """What jobs have written here, without the lock."""
        return sorted(name for name in self.disk.names() if _OWN.fullmatch(name) and name != _LOCK)

    def _remove_all(self) -> None:
        """Removes all that jobs write but the lock: the journal first, for without it nothing that is left counts."""
        for name in sorted(self._own_names(), key=lambda name: name != JOURNAL):
            self.disk.remove(name)

    def _clear(self) -> None:
        """Removes what an earlier job has left.

        Raises:
            DestinationError: There is something and it is not to be overwritten.
        """
        left = self._own_names()
        if left and not self._overwrite:
            raise DestinationError(
                f"{str(self.disk.root)!r} holds results without a journal ({left[0]}), so nothing can be added to "
                "them. Name another folder, or --overwrite them."
            )
        self._remove_all()

    def _remove_unfinished(self, parts: int) -> None:
        """Removes what the journal does not speak of: what was written aside, and parts that were not noted yet."""
        self.disk.remove(ASIDE)
        for folder in ("", "_parts", "masks"):
            for name in list(self.disk.names(folder)):
                part = re.fullmatch(r"part-(\d{6,})(\.parquet|\.jsonl|)", name)
                if part and int(part[1]) >= parts:
                    self.disk.remove(os.path.join(folder, name))

    def _refuse_foreign(self) -> None:
        if not self.disk.root.is_dir():
            raise DestinationError(f"{str(self.disk.root)!r} is a file; results are a folder.")
        names = set(self.disk.names())
        foreign = sorted(name for name in names if not _OWN.fullmatch(name))
        # Where there is one, the folder is a job's, and what somebody has put beside its results is left alone.
        if foreign and JOURNAL not in names:
            raise DestinationError(
                f"{str(self.disk.root)!r} holds other things ({foreign[0]}): name a folder of its own."
            )


def _locked(root: Path) -> BinaryIO:
    """The lock of a folder, which is made where it is not there."""
    while True:
        if not root.is_dir():
            root.mkdir(exist_ok=True)
            sync_folder(root.parent)
        # A job that ends just now may remove the folder, or the lock after it was opened here.
        with suppress(FileNotFoundError):
            file = _lock(root / _LOCK)
            if _is_at(file, root / _LOCK):
                return file
            file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(path: Path) -> BinaryIO:
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


def _refuse_another(root: Path, what: str, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f"{name} was {begun.get(name)!r} and is {wanted.get(name)!r}"
        for name in {**begun, **wanted}
        if begun.get(name) != wanted.get(name)
    ]
    if differences:
        raise DestinationError(
            f"{str(root)!r} holds results of {what}: {'; '.join(differences)}. Name another folder, or "
            "--overwrite them."
        )
