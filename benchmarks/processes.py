"""What a process and all of its children take of the machine."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and what it started.

    Attributes:
        pid: Of the process.
    """

    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of all that are alive."""
        times = [process.cpu_times() for process in self._members()]
        return sum(one.user + one.system for one in times)

    def memory_bytes(self) -> int:
        """Resident memory; of pages that several processes share each has its part."""
        return sum(int(process.memory_full_info().pss) for process in self._members())

    def _members(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]
