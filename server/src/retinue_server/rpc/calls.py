"""Calls, whatever protocol brings them: how many at once, what they hold, what is counted of them."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from retinue_server.batching.tickets import Priority
from retinue_server.catalog import Leases, ServedModel
from retinue_server.errors import OverloadedError, RetinueError
from retinue_server.metrics import Metrics
from retinue_server.routing import Metadata
from retinue_server.rpc.access import SCOPES, Access
from retinue_server.rpc.budget import ByteBudget, Holding
from retinue_server.rpc.call_records import CallRecords
from retinue_server.saturation import InFlight
from retinue_server.settings import Settings
from retinue_server.tokens import Token
from retinue_server.tracing.origin import Origin, current_origin

_POLL_SECONDS = 0.01
_RETRY_SECONDS = 0.1
# What the engine's process tells a front-end of whoever calls it over HTTP.
CALLER = "retinue-caller"
# Of the socket that only the server's own processes reach; the ports have addresses of IP.
_PRIVATE_PEER = "unix:"
_OK, _INTERNAL, _CANCELLED, _EXPIRED = "OK", "INTERNAL", "CANCELLED", "DEADLINE_EXCEEDED"

Reply = TypeVar("Reply")


class Context(Protocol):
    """What servicers ask of whoever calls; grpc's contexts have it, too."""

    def peer(self) -> str:
        """Who calls: the same for all calls of a connection."""
        ...

    def time_remaining(self) -> float | None:
        """The seconds until the answer is worthless; None for never."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What came beside the request: names, in lower case, with their values; None for nothing."""
        ...


def metadata_of(context: Context) -> Metadata:
    """Finds the text of an entry of what came beside a request."""

    def find(key: str) -> str | None:
        values = (value for name, value in context.invocation_metadata() or () if name == key)
        return next((value for value in values if isinstance(value, str)), None)

    return find


@dataclass(slots=True, eq=False)
class Call:
    """What is counted of a call. The model stays empty until the servicer has found one that is served.

    Attributes:
        unqueued_images: Images for the model that no queue has taken; where the call ends before, they are lost.
        priority: Theirs.
    """

    holding: Holding
    model: str = ""
    version: str = ""
    leases: list[Leases] = field(default_factory=list)
    token: Token | None = None
    # Whether another process counts it.
    passed_on: bool = False
    # What a caller knows it by among the messages of a stream.
    message_id: str = ""
    images: int = 0
    origin: Origin = field(default_factory=lambda: Origin(""))
    unqueued_images: int = 0
    priority: Priority = Priority.NORMAL

    def name_model(self, model: ServedModel) -> None:
        """Notes which model the call is for, and holds it until the call ends. Called once."""
        self.model, self.version = model.name, str(model.version)
        self.hold_model(model)

    def hold_model(self, model: ServedModel) -> None:
        """Holds a model that the call needs besides, until it ends."""
        self.leases.append(model.leases)
        model.leases.take()


current_call: ContextVar[Call] = ContextVar("current_call")


def caller_of(context: Context) -> str:
    """Whose turn the current call is: that of its token, which may have many connections, or else of its connection.

    Over HTTP, with front-ends, the connection is the engine's process's, which says whose call it is. Nobody else is
    believed to say so.

    Args:
        context: Of the call.
    """
    token = current_call.get().token
    if token is not None:
        return f"token:{token.name}"
    peer = context.peer()
    return metadata_of(context)(CALLER) or peer if peer.startswith(_PRIVATE_PEER) else peer


class Calls:
    """All calls of a server: bounds them, and counts each.

    Args:
        metrics: Where they are counted.
        settings: How many are taken at once, and what they may hold together.
        access: Who may make which; None lets everybody do everything.
        records: What stays of them; None keeps no more than of those that fail.

    Attributes:
        access: That.
        held: How many wait until `release`.
    """

    def __init__(
        self,
        metrics: Metrics,
        settings: Settings,
        access: Access | None = None,
        records: CallRecords | None = None,
    ) -> None:
        self.access = access or Access(None)
        self._records = records or CallRecords()
        self._metrics = metrics
        self._max_calls = settings.max_concurrent_requests
        self._budget = ByteBudget(settings.max_bytes_in_flight)
        self._running: set[Call] = set()
        self._last_began = -math.inf
        self._released = asyncio.Event()
        self._released.set()
        # Calls that wait for that.
        self.held = 0

    def in_flight(self) -> InFlight:
        """What the calls take that are being answered now."""
        budget = self._budget
        return InFlight(len(self._running), self._max_calls, budget.held_bytes, budget.max_bytes)

    async def finished(self, timeout_seconds: float) -> None:
        """Waits until the replies of the calls that run now are sent, or the timeout; not for those that come later."""
        running = set(self._running)
        give_up = time.perf_counter() + timeout_seconds
        while not running.isdisjoint(self._running) and time.perf_counter() < give_up:
            await asyncio.sleep(_POLL_SECONDS)

    async def quiet(self, seconds: float, timeout_seconds: float) -> None:
        """Waits until no call has begun for some time, or the timeout."""
        give_up = time.perf_counter() + timeout_seconds
        while time.perf_counter() < min(self._last_began + seconds, give_up):
            await asyncio.sleep(_POLL_SECONDS)

    def hold(self) -> None:
        """Lets calls that come from now on wait until `release`: who is to be refused would only call again."""
        self._released.clear()

    def release(self) -> None:
        """Lets them go on."""
        self._released.set()

    def check(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Turns away who may not make a call, before anything of it is read; `answer` asks again.

        Args:
            method: Its name, which may be anything.
            metadata: What comes beside it.

        Raises:
            UnauthenticatedError: Nobody knows the caller.
            PermissionDeniedError: Who calls may do other things only.
        """
        try:
            self.access.identify(method, metadata)
        except RetinueError as error:
            self.count_refused(method, error)
            raise

    def count_refused(self, method: str, error: RetinueError) -> None:
        """Counts a call that is turned away before its message is there; its method's name may be anything."""
        # Labels are never what a stranger says.
        known = method if method in SCOPES else "other"
        self._metrics.count_call(known, "", "", error.code.name, 0.0)

    async def answer(self, method: str, context: Context, work: Callable[[Call], Awaitable[Reply]]) -> Reply:
        """Answers one call, in a task that ends when the reply has been sent.

        Args:
            method: Its name, for metrics and the log.
            context: Whose it is.
            work: Makes the reply, and has the call hold the bytes of both.

        Raises:
            RetinueError: Why there is no answer.
        """
        began = self._last_began = time.perf_counter()
        call = Call(Holding(self._budget), origin=self._records.begin(method, context))
        current_call.set(call)
        current_origin.set(call.origin)
        code = _OK
        try:
            if not self._released.is_set():
                await self._wait_for_release()
            if self.access.guarded:
                call.token = self.access.identify(method, context.invocation_metadata() or ())
            self._check_room()
            self.access.enter(call.token)
            self._running.add(call)
            _when_sent(partial(self._forget, call))
            return await work(call)
        except RetinueError as error:
            code = error.code.name
            if code == _INTERNAL:
                call.origin.note_failure(error.message)
            # The frames of the error, and of the one that ends the call, would keep the request's bytes until the
            # next garbage collection.
            del work
            error.__cause__ = error.__context__ = error.__traceback__ = None
            raise
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            code = _EXPIRED if remaining is not None and remaining <= 0 else _CANCELLED
            raise
        except Exception:
            code = _INTERNAL
            self._records.fail(method, call, context)
            told = f"internal error; the server logged it as {call.origin.request_id}."
            raise RetinueError(told) from None
        finally:
            seconds = time.perf_counter() - began
            self._records.end(method, call, code, seconds, context)
            if not call.passed_on:
                self._count(method, call, code, seconds)

    def _count(self, method: str, call: Call, code: str, seconds: float) -> None:
        if call.unqueued_images:
            self._count_unqueued(call, code)
        trace_id = call.origin.trace.context.trace_name if call.origin.trace is not None else ""
        self._metrics.count_call(method, call.model, call.version, code, seconds, trace_id)
        if call.token is not None:
            self._metrics.count_token(call.token.name, code)

    def _count_unqueued(self, call: Call, code: str) -> None:
        model, version, count = call.model, int(call.version), call.unqueued_images
        self._metrics.receive_images(model, version, call.priority, count)
        self._metrics.count_lost_images(model, version, call.priority, code, count)

    async def _wait_for_release(self) -> None:
        self.held += 1
        try:
            await self._released.wait()
        finally:
            self.held -= 1

    def _check_room(self) -> None:
        if len(self._running) >= self._max_calls:
            raise OverloadedError(
                f"as many calls as are taken at once, {self._max_calls}, are being answered; retry later.",
                retry_after_seconds=_RETRY_SECONDS,
                reason="TOO_MANY_CALLS",
            )

    def _forget(self, call: Call) -> None:
        self._running.discard(call)
        call.holding.release()
        self.access.leave(call.token)
        # It has been counted, so that labels of a model that goes now do not come again.
        for leases in call.leases:
            leases.give_back()


def _when_sent(forget: Callable[[], None]) -> None:
    """Calls back when the running call's reply has been sent, or never will be.

    Both the grpc library and uvicorn answer each call in a task of its own, which ends then. The contexts' own
    callbacks would tie the call into a reference cycle.
    """
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: forget())
