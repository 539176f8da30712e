"""Calls that a front-end passes on, since the engine's process is to answer them; both ends."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import structlog

from retinue_server.errors import EngineError, RetinueError
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameError, Kind

_log = structlog.get_logger(__name__)

# A method's name and its request, as bytes; gives the reply, as bytes, or raises a RetinueError.
Answering = Callable[[str, bytes], Awaitable[bytes]]


class Asking:
    """The front-end's end: passes calls on, and hands the answers to those who wait.

    Args:
        send: Sends a frame.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def ask(self, method: str, request: bytes) -> bytes:
        """Waits for the reply; where the caller leaves, what it has asked for goes on.

        Raises:
            RetinueError: Why there is none.
        """
        number = next(self._numbers)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send(frames.frame(Kind.CALL, frames.pack_call(number, method, request)))
        return await future

    def take(self, kind: Kind, body: bytes) -> None:
        """Takes an `ANSWER` or `NO_ANSWER`.

        Raises:
            FrameError: It is none, or of a call that does not wait.
        """
        reply, error = b"", None
        if kind is Kind.ANSWER:
            number, reply = frames.unpack_answer(body)
        else:
            number, error = frames.unpack_refusal(body)
        future = self._waiting.pop(number, None)
        if future is None:
            raise FrameError(f"the answer to call {number}, which does not wait")
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(reply)


class Answers:
    """The engine's end of one front-end.

    Args:
        answer: Answers a call.
        send: Sends a frame to the front-end.
    """

    def __init__(self, answer: Answering, send: Callable[[bytes], None]) -> None:
        self._answer_call = answer
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, body: bytes) -> None:
        """Takes a `CALL`.

        Raises:
            FrameError: It is none.
        """
        number, method, request = frames.unpack_call(body)
        task = asyncio.get_running_loop().create_task(self._answer(number, method, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drop_all(self) -> None:
        """Waits for no answer any more: the front-end is gone."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, number: int, method: str, request: bytes) -> None:
        try:
            reply = await self._answer_call(method, request)
        except RetinueError as error:
            self._send(frames.frame(Kind.NO_ANSWER, frames.pack_refusal(number, error)))
        except Exception:
            # The caller is told without its insides, and the front-end goes on.
            _log.exception("passed_call_failed", method=method)
            told = EngineError("the server failed on this call; its log says how.")
            self._send(frames.frame(Kind.NO_ANSWER, frames.pack_refusal(number, told)))
        else:
            self._send(frames.frame(Kind.ANSWER, frames.pack_answer(number, reply)))
