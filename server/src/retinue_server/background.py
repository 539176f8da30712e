"""What goes on beside the event loop: work that blocks, one at a time, and work that outlives who asked for it."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog

from retinue_server.errors import RetinueError

_log = structlog.get_logger(__name__)

Value = TypeVar("Value")


class Background:
    """Runs what blocks in a thread of its own, and coroutines to their end. Used on the event loop.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def in_thread(self, work: Callable[..., Value], *arguments: Any) -> Value:
        """Runs what blocks, after what was given to the thread before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    async def finished(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Waits for something that goes on when its caller leaves."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_of_failure)
            raise

    async def all_finished(self) -> None:
        """Waits for all of that."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()


def _tell_of_failure(task: asyncio.Task[Any]) -> None:
    """Logs why something has failed whose caller has left, unless that is its caller's alone to know."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, RetinueError):
        _log.error("repository_failed", exc_info=error)
