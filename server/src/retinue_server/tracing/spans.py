"""Spans, and what places them among those of other services: W3C's trace context."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import getrandbits

PARENT_KEY, STATE_KEY = "traceparent", "tracestate"
Entries = Iterable[tuple[str, str | bytes]]

# Source: W3C Trace Context, Level 1, 3.2. Later versions may have more behind it.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_UNKNOWN_VERSION = "ff"
_SAMPLED = 1
# Source: the same, 3.3.1.5, which asks for no less.
_MOST_STATE_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A span's place.

    Attributes:
        trace_id: 128 bits, not 0.
        span_id: 64 bits, not 0.
        sampled: Whether those who passed it on keep the trace.
        state: What else they say of it, as they wrote it.
        remote: Whether it is of another service.
    """

    trace_id: int
    span_id: int
    sampled: bool = True
    state: str = ""
    remote: bool = False

    @classmethod
    def new(cls, parent: "SpanContext | None" = None) -> "SpanContext":
        """A place in the parent's trace, or in a new one."""
        if parent is None:
            return cls(getrandbits(128) or 1, getrandbits(64) or 1)
        return cls(parent.trace_id, getrandbits(64) or 1, state=parent.state)

    @property
    def trace_name(self) -> str:
        """The trace's id as people see it."""
        return f"{self.trace_id:032x}"


class Kind(Enum):
    """What a span is of."""

    SERVER = "server"
    INTERNAL = "internal"


@dataclass(slots=True)
class Span:
    """Something that took time.

    Attributes:
        name: Of what it is.
        context: Its place.
        parent: What it is a part of; None for a trace's first.
        began_ns: Since 1970.
        ended_ns: Likewise.
        attributes: More about it.
        kind: Whether it answers somebody.
        links: What it was for, besides.
        failed: Whether it is this server's failure.
    """

    name: str
    context: SpanContext
    parent: SpanContext | None
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int | float]
    kind: Kind = Kind.INTERNAL
    links: Sequence[SpanContext] = field(default_factory=tuple)
    failed: bool = False


def parent_of(metadata: Entries) -> SpanContext | None:
    """The caller's span; None where it names none, or more than one.

    Args:
        metadata: What came beside the call, names in lower case.
    """
    parents = [value for name, value in metadata if name == PARENT_KEY]
    if len(parents) != 1 or not isinstance(parents[0], str):
        return None
    found = _PARENT.fullmatch(parents[0].strip())
    if found is None or found[1] == _UNKNOWN_VERSION or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id, flags = (int(found[group], 16) for group in (2, 3, 4))
    if not trace_id or not span_id:
        return None
    states = [value for name, value in metadata if name == STATE_KEY and isinstance(value, str)]
    state = ",".join(states)
    if len(state) > _MOST_STATE_CHARACTERS:
        state = ""
    return SpanContext(trace_id, span_id, bool(flags & _SAMPLED), state, remote=True)
