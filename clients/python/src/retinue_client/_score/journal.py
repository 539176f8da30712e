"""What a job has done, as lines that are only ever added: the job, each part that is whole, and its end."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from retinue_client._score.disk import Disk
from retinue_client._score.errors import JournalError

JOURNAL = "_journal.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part that is in its place.

    Attributes:
        part: Its number, from 0.
        file: Its file, relative to the results' folder.
        rows: How many rows it has.
        size_bytes: The size of the file.
        sha256: The SHA-256 of the file, 64 lower-case hexadecimal digits.
        cursor: After which entry of the source the next part begins; only the source knows what it means.
        reasons: How many of the rows have an error, by its reason.
        state: What the job's summary keeps over a restart.
    """

    part: int
    file: str
    rows: int
    size_bytes: int
    sha256: str
    cursor: Any
    reasons: dict[str, int]
    state: Any = None


@dataclass(slots=True)
class Journal:
    """The journal of one job.

    Attributes:
        job: What the job is: all that its rows depend on, as it was asked for.
        model: What answers it.
        parts: How many parts are whole.
        rows: How many rows they have.
        reasons: How many of them have an error, by its reason.
        last: The last part, or None.
        finished: Whether the job has.
    """

    disk: Disk
    job: dict[str, Any]
    model: dict[str, Any]
    parts: int = 0
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    last: PartRecord | None = None
    finished: bool = False
    _files: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, disk: Disk, job: dict[str, Any], model: dict[str, Any]) -> "Journal":
        """Writes the first line of a new journal.

        Raises:
            OSError: It cannot be written.
        """
        disk.append(JOURNAL, _line({"journal": FORMAT_VERSION, "job": job, "model": model}))
        return cls(disk, job, model)

    @classmethod
    def read(cls, disk: Disk, on_part: Callable[[PartRecord], None]) -> "Journal | None":
        """Reads the journal that an earlier run has left, and cuts off a last line that did not get whole to the disk.

        Args:
            disk: The results' folder.
            on_part: Called with each part, in order; what it raises ValueError of is damaged.

        Returns:
            The journal, or None where there is none with as much as its first line.

        Raises:
            JournalError: It is damaged, or a part that it names is not there as it says.
            OSError: It cannot be read.
        """
        path = disk.root / JOURNAL
        if not path.exists():
            return None
        journal, whole_bytes, size_bytes = None, 0, path.stat().st_size
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                is_last = whole_bytes + len(line) == size_bytes
                if is_last and not _is_whole(line):
                    disk.cut(JOURNAL, whole_bytes)
                    break
                whole_bytes += len(line)
                try:
                    fields = json.loads(line)
                    if journal is None:
                        journal = cls(disk, *_head_of(fields))
                    else:
                        journal._take(fields, on_part)
                except (ValueError, KeyError, TypeError) as exc:
                    raise JournalError(
                        f"Line {number} of {path} is damaged ({exc}). --overwrite begins anew."
                    ) from exc
        if journal is None:
            disk.remove(JOURNAL)
        return journal

    def files(self) -> list[str]:
        """The files of all parts, in order."""
        return list(self._files)

    def add(self, record: PartRecord) -> None:
        """Notes a part that has its name.

        Raises:
            OSError: It cannot be written; the part is made again by the next run then.
        """
        self.disk.append(JOURNAL, _line(asdict(record)))
        self._count(record)

    def finish(self) -> None:
        """Notes that all is done.

        Raises:
            OSError: It cannot be written.
        """
        self.disk.append(JOURNAL, _line({"finished": {"parts": self.parts, "rows": self.rows}}))
        self.finished = True

    def _take(self, fields: dict[str, Any], on_part: Callable[[PartRecord], None]) -> None:
        if self.finished:
            raise ValueError("it comes after the end")
        if "finished" in fields:
            self.finished = True
            return
        record = PartRecord(**fields)
        if record.part != self.parts:
            raise ValueError(f"part {record.part} stands in the place of part {self.parts}")
        size_bytes = self.disk.size_bytes(record.file)
        if size_bytes != record.size_bytes:
            what = "is missing" if size_bytes is None else f"has {size_bytes:,} bytes"
            raise JournalError(
                f"{self.disk.root / record.file} {what}, and was written with {record.size_bytes:,}: somebody "
                "has changed the results. --overwrite begins anew."
            )
        on_part(record)
        self._count(record)

    def _count(self, record: PartRecord) -> None:
        self.parts += 1
        self._files.append(record.file)
        self.rows += record.rows
        self.reasons.update(record.reasons)
        self.last = record


def _head_of(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if fields["journal"] != FORMAT_VERSION:
        raise ValueError(f"the journal is of version {fields['journal']}, not {FORMAT_VERSION}")
    return fields["job"], fields["model"]


def _is_whole(line: bytes) -> bool:
    """Whether a line was written to its end, of which what lies before it may be missing."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _line(fields: dict[str, Any]) -> bytes:
    # Paths that are no UTF-8 survive as escapes, which they would not as UTF-8.
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
