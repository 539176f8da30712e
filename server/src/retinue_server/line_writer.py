"""Writes lines in a thread of its own, so that nobody else waits for whoever reads them."""

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress

# All events of a burst have room: a few thousand lines, or some hundred tracebacks.
_MOST_BYTES = 4 * 1024 * 1024
# What a reader has to take the rest, when the process ends.
_LAST_LINES_SECONDS = 1.0


class LineWriter:
    """Keeps lines until a thread has written them, each at once, in their order; leaves out what it has no room for.

    A pipe that nobody reads, or a terminal that is stopped, has that thread wait for ever. Lines that cannot be written
    at all, because a disk is full or a reader has gone, are lost.

    Args:
        most_bytes: Of the lines that wait; those that are being written may be as many.
        on_left_out: Called by the thread with how many lines were left out; what it puts comes behind those before.
    """

    def __init__(
        self, most_bytes: int = _MOST_BYTES, on_left_out: Callable[[int], object] = lambda count: None
    ) -> None:
        self._most_bytes = most_bytes
        self._on_left_out = on_left_out
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._left_out = 0
        self._writing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to write, unless it has; what waits when the process ends is written then."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()
        atexit.register(self.flush)

    def put(self, descriptor: int, line: bytes) -> None:
        """Has something written; called by any thread, and does not wait.

        Args:
            descriptor: Of the open file.
            line: What, its end included.
        """
        with self._changed:
            # After the first that is left out all are, so that it is known where they were.
            if self._left_out or self._waiting_bytes + len(line) > self._most_bytes:
                self._left_out += 1
            else:
                self._waiting.append((descriptor, line))
                self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self, timeout_seconds: float = _LAST_LINES_SECONDS) -> bool:
        """Waits until all is written; returns whether it is.

        Args:
            timeout_seconds: How long at most.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_waiting and not self._writing, timeout_seconds)

    @property
    def _is_waiting(self) -> bool:
        return bool(self._waiting or self._left_out)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_waiting)
                lines, left_out = self._waiting, self._left_out
                self._waiting, self._waiting_bytes, self._left_out = [], 0, 0
                self._writing = True
            if left_out:
                self._on_left_out(left_out)
            for descriptor, line in lines:
                # To whom could be told that a log cannot be written?
                with suppress(OSError):
                    _write_all(descriptor, line)
            with self._changed:
                self._writing = False
                self._changed.notify_all()


def _write_all(descriptor: int, line: bytes) -> None:
    # Not by way of sys.stderr, whose lock the end of the interpreter would want of a thread that waits here.
    while line:
        line = line[os.write(descriptor, line) :]
