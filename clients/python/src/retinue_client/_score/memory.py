"""What allocators keep of the memory that was freed: left alone, a job's process grows for minutes, by a quarter."""

import ctypes
import os

# Source: mallopt(3) and glibc's malloc.h.
_M_ARENA_MAX = -8


def keep_little() -> None:
    """Has allocators keep little, in this process; to be called before pyarrow is imported and threads are started.

    In a worker of a Ray cluster it is too late for that: Ray has pyarrow before. Arrow's own allocator keeps what each
    thread has freed, and glibc has eight heaps for each core and keeps what is free in each.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def give_back_freed() -> None:
    """Gives memory that was freed back to the system; takes a millisecond."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
