"""Messages that are on their way: gRPC keeps what has come of each, and tells of none before it is whole."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

import grpc
import structlog

from retinue_server.errors import InvalidRequestError, OverloadedError, RetinueError

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.02
_RETRY_SECONDS = 1.0

Message = TypeVar("Message")


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
        # Until when each call waits, the oldest first; None where there is no hurry.
        self._coming: dict[asyncio.Task[object], float | None] = {}
        self._given_up: dict[asyncio.Task[object], RetinueError] = {}
        self._is_full = False
        self._looking: asyncio.TimerHandle | None = None

    async def one(self, context: Readable) -> object:
        """The message of a call that has one.

        Raises:
            InvalidRequestError: It did not come in time, or there is none.
            OverloadedError: There is no memory for it.
        """
        until = asyncio.get_running_loop().time() + self._timeout_seconds
        message = await self._wait(context.read, until)
        if message is grpc.aio.EOF:
            raise InvalidRequestError("the call has no message; send one.", reason="REQUEST_UNREADABLE")
        return message

    async def each(self, messages: AsyncIterable[Message]) -> AsyncIterator[Message]:
        """The messages of a stream, which may come when they like.

        Raises:
            OverloadedError: There is no memory for the next one.
        """
        coming = aiter(messages)
        while True:
            try:
                message = await self._wait(lambda: anext(coming), None)
            except StopAsyncIteration:
                return
            yield message
            del message

    async def _wait(self, read: Callable[[], Awaitable[Message]], until: float | None) -> Message:
        task = asyncio.current_task()
        assert task is not None
        if self._is_full and self._coming:
            raise _no_memory()
        self._coming[task] = until
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        try:
            return await read()
        except asyncio.CancelledError:
            if task not in self._given_up:
                raise
            task.uncancel()
            raise self._given_up[task] from None
        finally:
            del self._coming[task]
            self._given_up.pop(task, None)

    def _look(self) -> None:
        """Looks after those that wait, as long as there are any."""
        loop = asyncio.get_running_loop()
        self._looking = None
        self._is_full = bool(self._coming) and self._no_room()
        for task in self._late(loop.time()):
            self._give_up(task, self._too_slow())
        if self._is_full:
            among = [task for task in self._coming if task not in self._given_up]
            # Streams may have been quiet for long with good reason, and are the last to go.
            among = [task for task in among if self._coming[task] is not None] or among
            for task in among[: -(-len(among) // 2)]:
                self._give_up(task, _no_memory())
        if self._given_up:
            _log.warning("messages_given_up", calls=len(self._given_up), no_memory=self._is_full)
        if self._coming:
            self._looking = loop.call_later(_LOOK_SECONDS, self._look)

    def _late(self, now: float) -> list[asyncio.Task[object]]:
        return [task for task, until in self._coming.items() if until is not None and until < now]

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
