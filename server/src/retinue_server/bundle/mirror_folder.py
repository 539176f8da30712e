"""How a mirror lies on the disk: everything in it is whole, and says what it was copied from."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from retinue_server.bundle.remote import Key
from retinue_server.bundle.repository import find

# Size and tag of each file, by name.
Source = dict[str, tuple[int | None, str]]

# Of the disk, for all else that is written there.
_LEFT_FREE = 0.05
_RECORD = ".mirrored.json"
# Beside the models, on the same file system.
_COMING = ".coming-"
_GOING = ".going-"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Record:
    """What a folder was copied from.

    Attributes:
        source: Its files as they were listed.
        whole: Whether they belong together.
    """

    source: Source
    whole: bool


class MirrorFolder:
    """A folder of models that come by rename from beside it. Its methods raise OSError.

    Args:
        path: Where it lies; made where it does not exist. Nobody else may write to it.

    Attributes:
        path: The same.
        models: The folder of models in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models = path / "models"
        self.models.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self, wait: Callable[[], bool]) -> Iterator[None]:
        """Waits until no other process and no other thread changes the folder, and what a killed one left is gone.

        Args:
            wait: Waits a little; true gives up, and then nothing may be changed.
        """
        # Somebody may have cleaned up.
        self.models.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not (locked := _lock(lock)) and not wait():
                pass
            if locked:
                for left in (*self.path.glob(f"{_COMING}*"), *self.path.glob(f"{_GOING}*")):
                    shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """A folder to copy into, which goes afterwards unless it was put into place."""
        path = Path(tempfile.mkdtemp(prefix=_COMING, dir=self.path))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def versions(self, name: str | None = None) -> list[Key]:
        """Lists those that are here, of one model or of all."""
        return [(bundle.name, bundle.version) for bundle in find(self.models, name)]

    def record(self, key: Key) -> Record | None:
        """What a version was copied from; None where it is not here or its files are not all there."""
        return _read_record(self._place(key))

    def put(self, aside: Path, key: Key, record: Record) -> None:
        """Puts a version into its place, whatever is there."""
        (aside / _RECORD).write_text(json.dumps({"files": record.source, "whole": record.whole}))
        _onto_the_disk(aside)
        place = self._place(key)
        place.parent.mkdir(exist_ok=True)
        gone = self._set_aside(place) if place.exists() else None
        aside.rename(place)
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True)

    def remove(self, key: Key) -> None:
        """Takes a version away."""
        place = self._place(key)
        shutil.rmtree(self._set_aside(place), ignore_errors=True)
        _remove_if_empty(place.parent)

    def names_with(self, file: str) -> list[str]:
        """Lists the models that have a file of that name beside their versions."""
        return [path.parent.name for path in self.models.glob(f"*/{file}")]

    def record_beside(self, name: str) -> Record | None:
        """What lies beside a model's versions, as `record` has it."""
        return _read_record(self.models / name)

    def put_beside(self, aside: Path, name: str, record: Record) -> None:
        """Puts files beside a model's versions."""
        (aside / _RECORD).write_text(json.dumps({"files": record.source, "whole": record.whole}))
        _onto_the_disk(aside)
        (self.models / name).mkdir(exist_ok=True)
        # What tells of the others last.
        for file in (*record.source, _RECORD):
            (aside / file).replace(self.models / name / file)

    def has_beside(self, name: str, file: str) -> bool:
        """Whether a file of that name lies beside a model's versions."""
        return (self.models / name / file).exists()

    def put_nothing_beside(self, name: str, file: str) -> None:
        """Puts an empty file beside a model's versions, without a record: one that could not be copied."""
        (self.models / name).mkdir(exist_ok=True)
        (self.models / name / file).touch()

    def remove_beside(self, name: str, file: str) -> None:
        """Takes a file beside a model's versions away."""
        for gone in (file, _RECORD):
            (self.models / name / gone).unlink(missing_ok=True)
        _remove_if_empty(self.models / name)

    def room_bytes(self, limit_bytes: int) -> int:
        """How many bytes may be written now.

        Args:
            limit_bytes: Most that all models take; 0 means none but the disk's.
        """
        disk = shutil.disk_usage(self.path)
        room_bytes = int(disk.free - _LEFT_FREE * disk.total)
        if limit_bytes:
            used_bytes = sum(path.stat().st_size for path in self.models.rglob("*") if path.is_file())
            room_bytes = min(room_bytes, limit_bytes - used_bytes)
        return max(0, room_bytes)

    def _place(self, key: Key) -> Path:
        return self.models / key[0] / str(key[1])

    def _set_aside(self, place: Path) -> Path:
        going = Path(tempfile.mkdtemp(prefix=_GOING, dir=self.path))
        place.rename(going / place.name)
        return going


def _read_record(folder: Path) -> Record | None:
    try:
        kept = json.loads((folder / _RECORD).read_text())
        source: Source = {name: (size, tag) for name, (size, tag) in kept["files"].items()}
        for name, (size, _) in source.items():
            actual = (folder / name).stat().st_size
            if size not in {None, actual}:
                return None
        return Record(source, bool(kept["whole"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        # A power cut, or somebody who cleaned up: it is copied again.
        return None


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _onto_the_disk(folder: Path) -> None:
    """Waits until what the files say is on the disk: a name may get there first, and zeros with it."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
