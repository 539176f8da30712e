"""What is fuzzed: a function of bytes, what it starts from, and what it may cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A way into the server for bytes from outside.

    Attributes:
        name: Its name.
        run: Takes the bytes. What it raises is a crash: errors that callers are told of, it expects and swallows; and
            it asserts what must hold of what it gets.
        seeds: Inputs to start from, that reach far.
        max_bytes: Of an input.
        seconds: What one may take; more is a hang.
        memory_mib: What the process may take; more is a crash.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    max_bytes: int = 4096
    seconds: int = 5
    memory_mib: int = 1024
