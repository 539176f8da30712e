"""Messages that are on their way: gRPC keeps what has come of each, and tells of none before it is whole."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import takewhile
from typing import Any, Protocol

import grpc
import structlog

from retinue_server.errors import InvalidRequestError, OverloadedError, RetinueError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.02
_RETRY_SECONDS = 1.0


class Readable(Protocol):
    """What grpc's contexts have of a call that sends messages."""

    async def read(self) -> object:
        """The next message, or grpc.aio.EOF."""
        ...


class Arrivals:
    """Waits for messages; gives those up that take too long, or for which there is no memory, the oldest first.

    Args:
        timeout_seconds: How long the message of a call that has one may take.
        no_room: Whether the process has more memory than it may have.
    """

    def __init__(self, timeout_seconds: float, no_room: Callable[[], bool] = lambda: False) -> None:
        self._timeout_seconds = timeout_seconds
        self._no_room = no_room
        # Until when each call waits that has one message, the oldest first.
        self._calls: dict[asyncio.Task[object], float] = {}
        # Streams, which are in no hurry and may be many.
        self._streams: dict[asyncio.Task[object], float] = {}
        self._given_up: dict[asyncio.Task[object], RetinueError] = {}
        self._is_full = False
        self._looking: asyncio.TimerHandle | None = None

    async def one(self, context: Readable, *, in_any_case: bool = False) -> object:
        """The message of a call that has one.

        Args:
            context: The call's.
            in_any_case: Whether to wait for it also where there is no memory: it is small, unless somebody lies.

        Raises:
            InvalidRequestError: It did not come in time, or there is none.
            OverloadedError: There is no memory for it.
        """
        if not in_any_case:
            self._check_room()
        message = await self._wait(context, self._calls)
        if message is grpc.aio.EOF:
            raise InvalidRequestError("the call has no message; send one.", reason="REQUEST_UNREADABLE")
        return message

    async def each(self, context: Readable) -> AsyncIterator[Any]:
        """The messages of a stream, which may come when they like. None is kept while the next one is waited for.

        Raises:
            OverloadedError: There is no memory for the next one.
        """
        while True:
            self._check_room()
            message = await self._wait(context, self._streams)
            if message is grpc.aio.EOF:
                return
            yield message
            del message

    def _check_room(self) -> None:
        if self._is_full and (self._calls or self._streams):
            raise _no_memory()

    async def _wait(self, context: Readable, coming: dict[asyncio.Task[object], float]) -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        coming[task] = loop.time() + self._timeout_seconds
        if self._looking is None:
            self._looking = loop.call_later(_LOOK_SECONDS, self._look)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if task not in self._given_up:
                raise
            task.uncancel()
            raise self._given_up[task] from None
        finally:
            del coming[task]
            self._given_up.pop(task, None)

    def _look(self) -> None:
        """Looks after those that wait, as long as there are any."""
        loop = asyncio.get_running_loop()
        self._looking = None
        waiting = bool(self._calls or self._streams)
        self._is_full = waiting and self._no_room()
        now = loop.time()
        for task, _ in takewhile(lambda one: one[1] < now, self._calls.items()):
            self._give_up(task, self._too_slow())
        if self._is_full:
            # Streams may have been quiet for long with good reason, and are the last to go.
            among = self._left(self._calls) or self._left(self._streams)
            for task in among[: -(-len(among) // 2)]:
                self._give_up(task, _no_memory())
        if self._given_up:
            _log.warning("messages_given_up", calls=len(self._given_up), no_memory=self._is_full)
        if waiting:
            self._looking = loop.call_later(_LOOK_SECONDS, self._look)

    def _left(self, coming: dict[asyncio.Task[object], float]) -> list[asyncio.Task[object]]:
        return [task for task in coming if task not in self._given_up]

    def _give_up(self, task: asyncio.Task[object], error: RetinueError) -> None:
        if task not in self._given_up:
            self._given_up[task] = error
            task.cancel()

    def _too_slow(self) -> RetinueError:
        return InvalidRequestError(
            f"the message was not there after {self._timeout_seconds:g} s; send it in one go.",
            reason="BODY_TOO_SLOW",
        )


def _no_memory() -> RetinueError:
    return OverloadedError(
        "messages that are on their way take all the memory there is for requests; retry later.",
        retry_after_seconds=_RETRY_SECONDS,
        reason="TOO_MANY_BYTES_IN_FLIGHT",
    )
