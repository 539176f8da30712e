"""Which call something is for, for the log and for traces."""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits

from retinue_server.tracing.spans import Entries
from retinue_server.tracing.tracer import CallTrace

REQUEST_ID_KEY = "x-request-id"

# What UUIDs, ULIDs and the ids of common proxies are made of: nothing that a log or a terminal reads as anything else.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
# Messages of failures in the log's line of a call.
_MOST_FAILURES = 4


@dataclass(slots=True, eq=False)
class Origin:
    """What work is for: one call.

    Attributes:
        request_id: The call's, in the log and to its caller.
        trace: Its trace; None where it is not traced.
        failures: What callers are told of what this server failed at, a few.
    """

    request_id: str
    trace: CallTrace | None = None
    failures: list[str] = field(default_factory=list)

    def note_failure(self, message: str) -> None:
        """Keeps what a caller is told, for the log."""
        if len(self.failures) < _MOST_FAILURES and message not in self.failures:
            self.failures.append(message)


current_origin: ContextVar[Origin | None] = ContextVar("current_origin", default=None)


def request_id_of(metadata: Entries) -> str:
    """The caller's id of a call where it gives one that is fit to be printed, else a new one.

    Args:
        metadata: What came beside the call, names in lower case.
    """
    for name, value in metadata:
        if name == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    # It need be no secret.
    return f"{getrandbits(64):016x}"
