"""The control groups that bound a process. Source: Linux, admin-guide/cgroup-v2."""

from contextlib import suppress
from pathlib import Path

# Tells which group the process's is, and where they all are.
_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def read(name: str) -> list[str]:
    """What a file says in the process's control group and in those around it; those that have none are left out.

    Args:
        name: Of the file, such as memory.max.
    """
    texts = []
    for group in _groups():
        with suppress(OSError, UnicodeDecodeError):
            texts.append((group / name).read_text(encoding="ascii").strip())
    return texts


def _groups() -> list[Path]:
    with suppress(OSError):
        for line in _OWN.read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                group = _ROOT / line.removeprefix("0::").strip().strip("/")
                return [one for one in (group, *group.parents) if one.is_relative_to(_ROOT)]
    return []
