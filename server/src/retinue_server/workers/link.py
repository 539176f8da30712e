"""The front-end's end of the connection: requests go to the engine's process, and what became of them comes back."""

import asyncio
from collections.abc import Callable
from itertools import count

from retinue_server.batching.tickets import Outcome
from retinue_server.errors import RetinueError
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameError, Kind, Ran, Submission
from retinue_server.workers.slots import Lease


class EngineLink:
    """Hands requests to the engine's process, and what became of them to those who wait.

    Args:
        send: Sends a frame.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._numbers = count()
        self._waiting: dict[int, tuple[asyncio.Future[list[Outcome[Ran]]], Lease]] = {}

    async def run(self, one: Submission, lease: Lease) -> list[Outcome[Ran]]:
        """Has images run; if the caller is cancelled, the engine's process is told.

        Args:
            one: The request; it gets its number here.
            lease: Of its slots, which are used until the engine's process has said that it is done with them.

        Raises:
            RetinueError: The engine's process has not taken it.
        """
        one.request_id = next(self._numbers)
        future: asyncio.Future[list[Outcome[Ran]]] = asyncio.get_running_loop().create_future()
        lease.use()
        self._waiting[one.request_id] = future, lease
        self._send(frames.frame(Kind.SUBMIT, frames.pack_submission(one)))
        try:
            return await future
        except asyncio.CancelledError:
            if one.request_id in self._waiting:
                self._send(frames.frame(Kind.CANCEL, frames.pack_number(one.request_id)))
            raise

    def take(self, kind: Kind, body: bytes) -> None:
        """Takes what became of a request: a `REPLY`, `REFUSED` or `ENDED`.

        Raises:
            FrameError: It is none, or of a request that does not wait.
        """
        outcomes: list[Outcome[Ran]] = []
        error: RetinueError | None = None
        if kind is Kind.REPLY:
            number, outcomes = frames.unpack_reply(body)
        elif kind is Kind.REFUSED:
            number, error = frames.unpack_refusal(body)
        else:
            number = frames.unpack_number(body)
        if number not in self._waiting:
            raise FrameError(f"what became of request {number}, which does not wait")
        future, lease = self._waiting.pop(number)
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(outcomes)
        lease.leave()
