"""What the threads of a pool do, as its metrics tell it."""

from collections.abc import Mapping
from dataclasses import dataclass

from retinue_server.batching.tickets import BatchEnd


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pool of threads does and has done.

    Attributes:
        threads: How many there are.
        healthy: Whether all of them live.
        waiting: Images that no thread has begun yet.
        busy_seconds: Of all threads together, since they were started.
        batches: How many ended how.
    """

    threads: int
    healthy: bool
    waiting: int
    busy_seconds: float
    batches: Mapping[BatchEnd, int]
