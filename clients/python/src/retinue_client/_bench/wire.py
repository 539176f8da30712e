"""Calls that cost little: bytes out, bytes in, and a function that is told when it is over."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias

import grpc

from retinue_client._channel import deadline_seconds, targets
from retinue_client._errors import RetinueError, error_from_call
from retinue_client._security import PLAIN, Security

_SERVICE = "/retinue.v1.VisionService/"

Done: TypeAlias = Callable[[bytes | RetinueError | None], None]
"""Is given a call's reply, or its error, or None where it was abandoned."""


class Wire(Protocol):
    """The way to a server."""

    def send(self, body: bytes, done: Done) -> None:
        """Begins a call. `done` is called when it ends, from any thread."""

    def abandon(self) -> None:
        """Cancels the calls that are under way."""


class Clock(Protocol):
    """What time it is, and how to wait."""

    def now(self) -> float:
        """Seconds of the monotonic clock, which all processes of a machine share."""

    def cpu(self) -> float:
        """Seconds of processor time that this process has used."""

    def sleep(self, seconds: float) -> None:
        """Waits so long, or until somebody calls `wake`."""

    def wake(self) -> None:
        """Ends the sleep, or the next one."""


class SystemClock:
    """The machine's."""

    def __init__(self) -> None:
        self._awake = threading.Event()

    now = staticmethod(time.monotonic)
    cpu = staticmethod(time.process_time)

    def sleep(self, seconds: float) -> None:
        """Waits so long, or until somebody calls `wake`."""
        self._awake.wait(seconds)
        self._awake.clear()

    def wake(self) -> None:
        """Ends the sleep, or the next one."""
        self._awake.set()


class GrpcWire:
    """Calls of one method over one or several connections, in turns.

    gRPC's futures cost less than a thread for each call, and no more than asyncio, whose timers count milliseconds.

    Args:
        address: As `resolve_address` gives it; connections to several are opened in turn.
        method: The RPC of VisionService.
        timeout_seconds: Each call's deadline, or None.
        connections: Over how many connections.
        security: How they are encrypted, and what says who calls.
    """

    def __init__(
        self,
        address: str,
        method: str,
        timeout_seconds: float | None,
        connections: int,
        security: Security = PLAIN,
    ) -> None:
        self._address = address
        self._timeout_seconds = deadline_seconds(timeout_seconds)
        # Channels to one address would share a connection.
        alone = (("grpc.use_local_subchannel_pool", 1),)
        names = itertools.cycle(target.name for target in targets(address, apart=True))
        self._channels = [security.channel(next(names), alone) for _ in range(connections)]
        self._metadata = security.metadata
        calls: list[Any] = [channel.unary_unary(_SERVICE + method) for channel in self._channels]
        self._calls = itertools.cycle(calls)
        self._under_way: set[Any] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def ask(self, body: bytes) -> bytes:
        """Makes a call and waits for its reply.

        Raises:
            RetinueError: It failed.
        """
        try:
            reply: bytes = next(self._calls)(body, timeout=self._timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc
        return reply

    def send(self, body: bytes, done: Done) -> None:
        """Begins a call. `done` is called when it ends, from a thread of gRPC's."""
        call: Any = next(self._calls).future(body, timeout=self._timeout_seconds, metadata=self._metadata)
        self._under_way.add(call)

        def ended(_: Any) -> None:
            self._under_way.discard(call)
            if call.cancelled():
                done(None)
            elif (error := call.exception()) is None:
                done(call.result())
            else:
                done(self._translated(error))

        call.add_done_callback(ended)

    def abandon(self) -> None:
        """Cancels the calls that are under way."""
        for call in tuple(self._under_way):
            call.cancel()

    def _translated(self, error: grpc.RpcError) -> RetinueError:
        return error_from_call(error, self._address, self._timeout_seconds, closed=False)
