"""What files hold, read again when they change; what held before stays where that cannot be used."""

import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import structlog

from retinue_server.errors import StartupError

_log = structlog.get_logger(__name__)

# Files may be written in several steps, and what is refused now may hold later.
_RETRY_SECONDS = 1.0

Held = TypeVar("Held")
_State: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


class Followed(Generic[Held]):
    """What some files hold. Any thread may ask.

    They are looked at whenever somebody asks, so that nothing need watch them.

    Args:
        what: Their name in the log.
        paths: Where they are.
        read: Reads them all.
        clock: Seconds.

    Raises:
        StartupError: They cannot be used.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], Held],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._paths, self._read_all, self._clock = what, paths, read, clock
        self._lock = threading.Lock()
        self._refused = ""
        self._retry_at = 0.0
        self._state, self._held = self._read()

    def current(self) -> Held:
        """What they hold now, or what they held before where that cannot be used, which is logged once."""
        with self._lock:
            now = self._clock()
            if self._look() != self._state and (not self._refused or now >= self._retry_at):
                self._take(now)
            return self._held

    def _take(self, now: float) -> None:
        try:
            self._state, self._held = self._read()
        except StartupError as error:
            self._retry_at = now + _RETRY_SECONDS
            if error.message != self._refused:
                self._refused = error.message
                _log.warning(f"{self._what}_refused", reason=error.message)
            return
        self._refused = ""
        _log.info(f"{self._what}_read")

    def _read(self) -> tuple[_State, Held]:
        state = self._look()
        held = self._read_all()
        if self._look() != state:
            # What was read first may be of before, and what was read last of after.
            names = ", ".join(f"'{path}'" for path in self._paths)
            raise StartupError(f"{names}: changed while being read; try again.")
        return state, held

    def _look(self) -> _State:
        return tuple(map(_state_of, self._paths))


def _state_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    # The last of them changes with permissions, too.
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def bounded_bytes(flag: str, path: Path, most_bytes: int) -> bytes:
    """What a file holds that a flag names.

    Raises:
        StartupError: It is no regular file, cannot be read, or holds more than that.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StartupError(f"{flag} '{path}' is no regular file; name one.")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise StartupError(f"cannot read {flag} '{path}': {error.strerror}.") from error
    if len(content) > most_bytes:
        raise StartupError(f"{flag} '{path}' has more than {most_bytes} bytes.")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """To open a pipe that nobody writes to takes for ever, and all who ask wait meanwhile."""
    return os.open(path, flags | os.O_NONBLOCK)
