"""Processor cores for several workers of one machine, so that none of them counts on what another one uses."""

import fcntl
import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

# Held until the process ends, however it does.
_HELD: list[BinaryIO] = []


def take_cores(count: int, folder: Path | None = None) -> list[int]:
    """Has this process, and the threads that it starts from now on, run on so many cores that no other one has taken.

    Where there are not enough of them, nothing changes.

    Args:
        count: How many.
        folder: Where it is noted which are taken; None for one of the machine.

    Returns:
        The cores, or none.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"retinue-cores-{os.getuid()}"
    allowed = sorted(os.sched_getaffinity(0))
    if count >= len(allowed):
        return []
    taken: dict[int, BinaryIO] = {}
    with ExitStack() as given_back, suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        for core in allowed:
            file = given_back.enter_context((folder / f"core-{core}").open("wb"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[core] = file
            if len(taken) == count:
                os.sched_setaffinity(0, taken)
                given_back.pop_all()
                _HELD.extend(taken.values())
                return list(taken)
    return []
