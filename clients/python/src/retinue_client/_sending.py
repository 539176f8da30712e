"""What both clients do about a request besides sending it: who is asked, until when, and whether once more."""

import random
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import grpc

from retinue_client._address import first_address
from retinue_client._channel import deadline_seconds, targets
from retinue_client._deadline import bounded
from retinue_client._errors import DeadlineExceededError, RetinueError, UnavailableError, error_from_call
from retinue_client._retries import Budget, Retries, may_get_better
from retinue_client._security import Security
from retinue_client._spans import OPENTELEMETRY, Span, span_of
from retinue_client._turns import Turns

VISION = "retinue.v1.VisionService"
REPOSITORY = "inference.GRPCInferenceService"
# Calls about what a server has, ready or not, of which there is one to ask.
REPOSITORY_METHODS = frozenset({"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"})
# They may have done something although nobody was told.
_NEVER_AGAIN = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})
# No server has done anything for a request that failed so.
_REACHED_NOBODY = frozenset({"SERVER_UNREACHABLE", "NOT_READY"})
# A request that ends one server must not end them all.
_MOST_LOST = 2
_MOST_DOUBLINGS = 30


class Sending:
    """One request on its way to its answer, however often it is sent.

    Attributes:
        method: The RPC's name.
        message: The protobuf request.
        metadata: What goes beside it.
        timeout_seconds: How long all of it may take, as gRPC takes it; None for ever.
        deadline: When that is over, on time.monotonic.
        begun: When it was sent last, on time.monotonic.
        attempts: How often it was sent.
        lost: How often the connection was lost over it.
        place: Which channel it went to last.
        call: gRPC's future or call of the latest time, where it is not waited for from the start.
        span: Of OpenTelemetry, or None.
    """

    __slots__ = (
        "attempts",
        "begun",
        "call",
        "deadline",
        "lost",
        "message",
        "metadata",
        "method",
        "place",
        "span",
        "timeout_seconds",
    )

    def __init__(
        self, method: str, message: Any, metadata: tuple[tuple[str, str], ...], timeout_seconds: float | None
    ) -> None:
        self.method = method
        self.message = message
        self.metadata = metadata
        self.timeout_seconds = timeout_seconds
        self.deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self.begun = 0.0
        self.attempts = 0
        self.lost = 0
        self.place: int | None = None
        self.call: Any = None
        self.span: Span | None = None

    def left_seconds(self) -> float | None:
        """What is left of its time: what gRPC and, through it, the server are given."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)


class Delivery(ABC):
    """What the transports of both clients have in common.

    Args:
        address: Where the servers are, as `resolve_address` gives it.
        security: How connections are encrypted, and who calls.
        retries: What is sent again.
    """

    def __init__(self, address: str, security: Security, retries: Retries) -> None:
        self.address = address
        self.closed = False
        self._security = security
        self._retries = retries
        self._hedge_seconds = retries.hedge_after_seconds
        # A hedge goes to another server than the request did, and a certificate names one of them.
        apart = self._hedge_seconds is not None or security.encrypted
        self._targets = targets(address, apart=apart)
        # Whom calls about versions go to.
        self._first = first_address(address)
        self._turns = Turns(len(self._targets))
        self._budget = Budget(retries)
        self._random = random.Random()
        self._metadata = security.metadata

    def check_open(self) -> None:
        """Refuses to begin a call where nothing can be sent any more.

        Raises:
            RuntimeError: The client is closed.
        """
        if self.closed:
            raise RuntimeError("The client is closed.")

    def prepare(
        self,
        method: str,
        message: Any,
        timeout_seconds: float | None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Sending:
        """A request that is not sent yet.

        Raises:
            DeadlineExceededError: The code around has no time left.
        """
        timeout_seconds = deadline_seconds(bounded(timeout_seconds))
        sending = Sending(method, message, (*metadata, *self._metadata), timeout_seconds)
        # It may be imported later than this client.
        if OPENTELEMETRY in sys.modules:
            self._trace(sending)
        return sending

    def begin(self, sending: Sending) -> None:
        """Sends a request without waiting for its answer.

        Raises:
            RetinueError: The client was closed meanwhile.
        """
        try:
            sending.call = self._sent(sending)
        except BaseException:
            self.abandon(sending)
            raise

    def abandon(self, sending: Sending) -> None:
        """Nobody waits for the answer any more."""
        if sending.call is not None:
            sending.call.cancel()
        if sending.span is not None:
            sending.span.abandon()
            sending.span = None

    @abstractmethod
    def _sent(self, sending: Sending) -> Any:
        """Sends a request once more; gives gRPC's future or call."""

    def _trace(self, sending: Sending) -> None:
        service = REPOSITORY if sending.method in REPOSITORY_METHODS else VISION
        sending.span = span_of(f"{service}/{sending.method}", self.address, sending.metadata)
        if sending.span is not None:
            sending.metadata = sending.span.metadata

    def _place(self, sending: Sending) -> int:
        """Counts another time that it is sent, and says over which channel: another one than the last time."""
        sending.attempts += 1
        sending.begun = time.monotonic()
        if len(self._targets) == 1 or sending.method in REPOSITORY_METHODS:
            place = 0
        else:
            place = self._turns.next(sending.place)
        sending.place = place
        return place

    def _translated(self, call: grpc.RpcError, sending: Sending, place: int) -> RetinueError:
        address = self._first if sending.method in REPOSITORY_METHODS else self._targets[place].address
        return error_from_call(call, address, sending.timeout_seconds, closed=self.closed)

    def _answered(self, sending: Sending, place: int) -> None:
        if not self._budget.full:
            self._budget.earn()
        if len(self._targets) > 1:
            self._turns.answered(place)
        if sending.span is not None:
            sending.span.end(None, sending.attempts)
            sending.span = None

    def _failed(self, sending: Sending, error: RetinueError) -> None:
        """There will be no other try."""
        if sending.span is not None:
            sending.span.end(error, sending.attempts)
            sending.span = None

    def _note(self, place: int, error: RetinueError) -> None:
        """A try failed: whether the server has a turn soon."""
        if isinstance(error, UnavailableError):
            self._turns.set_aside(place)
        elif not isinstance(error, DeadlineExceededError):
            # A refusal is an answer, too.
            self._turns.answered(place)

    def _delay_seconds(self, sending: Sending, error: RetinueError) -> float | None:
        """How long to wait before the request is sent again, or None where it is not.

        A part of it is random, so that many clients do not come back at once.
        """
        retries = self._retries
        if sending.attempts >= retries.max_attempts or sending.method in _NEVER_AGAIN:
            return None
        if not may_get_better(error):
            return None
        if error.reason == "CONNECTION_LOST":
            sending.lost += 1
            if sending.lost >= _MOST_LOST:
                return None
        doublings = min(sending.attempts - 1, _MOST_DOUBLINGS)
        seconds = min(retries.first_delay_seconds * 2**doublings, retries.longest_delay_seconds)
        # A server that says "soon" each time is not asked more and more often for that.
        seconds = max(seconds, error.retry_after_seconds or 0.0)
        if seconds > retries.longest_delay_seconds:
            return None
        seconds *= self._random.uniform(1.0, 1.25)
        left = sending.left_seconds()
        if left is not None and seconds >= left:
            return None
        return seconds if error.reason in _REACHED_NOBODY or self._budget.spend() else None

    def _until_hedge_seconds(self, sending: Sending, after_seconds: float) -> float:
        """How long to wait for what was sent already, perhaps long before anybody waits."""
        return max(sending.begun + after_seconds - time.monotonic(), 0.0)

    def _may_hedge(self, sending: Sending) -> bool:
        return (
            sending.attempts < self._retries.max_attempts
            and sending.method not in REPOSITORY_METHODS
            and self._budget.spend()
        )
