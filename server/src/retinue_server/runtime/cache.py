"""What was worked out about models on this machine, kept between starts."""

import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime as ort
import structlog

_log = structlog.get_logger(__name__)

_UNUSED_DAYS = 30
_ASIDE = ".writing-"
_LONGEST_WRITING_SECONDS = 3600
_DAY_SECONDS = 24 * 60 * 60
_ENTRY = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class ModelCache:
    """A folder for each model, which holds what depends on its file, on this processor and on ONNX Runtime's version.

    Whoever can write there decides what this server runs, so only a folder that nobody else may write to is used.
    Where there is none, what is kept lasts as long as the process; where nothing can be written at all, nothing is
    kept. Entries that no start has used for 30 days go.

    Args:
        folder: Where entries lie; made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = _usable(folder)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if self._folder is None:
            try:
                self._temporary = tempfile.TemporaryDirectory(prefix="retinue-")
                self._folder = Path(self._temporary.name)
            except OSError as error:
                _log.warning("nothing_can_be_kept", reason=str(error))
        self._remove_unused()

    def find(self, sha256: str, name: str) -> Path | None:
        """What was kept of a model under this name, a file or a folder; None where nothing was.

        Args:
            sha256: Of the model's file, in hexadecimal digits.
            name: Which of the things that are kept.
        """
        entry = self._entry(sha256)
        if entry is None or not (entry / name).exists():
            return None
        # The entry is as old as its latest use.
        with suppress(OSError):
            os.utime(entry)
        return entry / name

    def keep(self, sha256: str, name: str, write: Callable[[Path], None]) -> Path:
        """Keeps something of a model: it is whole once it can be found, whatever happens meanwhile, a power cut too.

        Args:
            sha256: As for `find`.
            name: Likewise.
            write: Writes it to a path that does not exist yet, as a file or a folder.

        Returns:
            Where it lies.

        Raises:
            OSError: It cannot be written.
            Exception: From `write`.
        """
        entry = self._entry(sha256)
        if entry is None:
            raise OSError("there is no folder to keep it in")
        entry.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=entry))
        try:
            write(aside / name)
            _onto_the_disk(aside / name)
            with suppress(OSError):
                # Of two servers that start at once, the second finds what the first has kept.
                (aside / name).rename(entry / name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if not (entry / name).exists():
            raise OSError(f"nothing was kept as {entry / name}")
        return entry / name

    def drop(self, sha256: str, name: str) -> None:
        """Forgets what cannot be used."""
        entry = self._entry(sha256)
        if entry is None:
            return
        shutil.rmtree(entry / name, ignore_errors=True)
        with suppress(OSError):
            (entry / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes what was to last as long as the process."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _entry(self, sha256: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{sha256[:32]}-{_machine()}"

    def _remove_unused(self) -> None:
        if self._folder is None:
            return
        latest = time.time() - _UNUSED_DAYS * _DAY_SECONDS
        with suppress(OSError):
            for entry in self._folder.iterdir():
                # Nothing else is this cache's to remove.
                if not _ENTRY.fullmatch(entry.name):
                    continue
                if entry.stat().st_mtime < latest:
                    shutil.rmtree(entry, ignore_errors=True)
                for aside in entry.glob(f"{_ASIDE}*"):
                    # Of a process that was killed while it wrote.
                    if aside.stat().st_mtime < time.time() - _LONGEST_WRITING_SECONDS:
                        shutil.rmtree(aside, ignore_errors=True)


def _onto_the_disk(path: Path) -> None:
    """Waits until what a file or a folder's files say is on the disk: a name may get there first, and zeros with it."""
    for file in path.iterdir() if path.is_dir() else (path,):
        with file.open("rb") as written:
            os.fsync(written.fileno())


def _usable(folder: Path) -> Path | None:
    why = why_unusable(folder)
    if not why:
        return folder
    _log.warning("cache_unused", folder=str(folder), reason=why)
    return None


def why_unusable(folder: Path) -> str:
    """Makes a folder; returns why it is not this user's alone or cannot be written to, or an empty string."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        if state.st_uid != os.geteuid() or state.st_mode & _OTHERS_MAY_WRITE:
            return "others may write to it"
        if not os.access(folder, os.W_OK | os.X_OK):
            return "it cannot be written to"
    except OSError as error:
        return str(error.strerror)
    return ""


@cache
def _machine() -> str:
    """What an optimised graph and a measurement depend on besides the model, as a few characters."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # The first processor's.
    told = [next((line for line in lines if line.startswith(field)), "") for field in ("model name", "flags")]
    facts = "\n".join([ort.__version__, platform.machine(), platform.processor(), *told])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
