"""The messages between the engine's process and its front-ends, and how they lie in bytes.

A frame is the length of its body, its kind, and the body. Those of which there is one for each request are packed
fields; the few others carry text, JSON or protobuf.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique

from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import RetinueError
from retinue_server.tracing.spans import SpanContext
from retinue_server.workers.packed_errors import pack_error, unpack_error


@unique
class Kind(IntEnum):
    """What a frame says."""

    # From the engine's process.
    SETTINGS = 1
    """How to serve: JSON."""
    MODELS = 2
    """What is served from now on, all of it."""
    REPLY = 3
    """What became of the images of a request; their outputs are in its slots."""
    REFUSED = 4
    """Why a request was not taken."""
    ENDED = 5
    """Nothing touches the slots of a cancelled request any more."""
    COUNT = 6
    """Asks for `COUNTED`."""
    CLOSE = 7
    """Report everything as not serving."""
    DRAIN = 8
    """Take no more calls, finish those in flight, and say `DRAINED`; the body is the grace in seconds."""
    STOP = 9
    """All requests have been answered: end."""
    ANSWER = 10
    """The reply to a `CALL`."""
    NO_ANSWER = 11
    """Why a `CALL` has none."""

    # From a front-end.
    LISTENING = 32
    """It can be given models."""
    FAILED = 33
    """It cannot start, and why."""
    READY = 34
    """It serves the models of the `MODELS` of that number, and no others."""
    SUBMIT = 35
    """A request whose images are in its slots."""
    CANCEL = 36
    """Nobody waits for a request any more; it is still followed by `REPLY`, `REFUSED` or `ENDED`."""
    COUNTED = 37
    """What its metrics say: JSON. It follows `STATISTICS`."""
    DRAINED = 38
    """No call is in flight."""
    RELEASED = 39
    """It has no model of that number any more: no call holds it, and nothing touches its slots."""
    CALL = 40
    """A call that is the engine's process's to answer."""
    STATISTICS = 41
    """What it has counted of each model: JSON."""


@dataclass(slots=True)
class Submission:
    """A request of a front-end.

    Attributes:
        request_id: The front-end's name of it.
        model: Which of the models.
        priority: When its turn is.
        deadline: When its answers are worthless, on CLOCK_MONOTONIC, which all processes share; None for never.
        caller: Whose it is.
        iou_threshold: Which overlap makes two boxes one object, for detectors that can be told.
        extra_outputs: Which of the model's extra outputs are wanted, as bits, the first the lowest.
        slots: Where its images are.
        call_id: Of the call that it is for, in the log.
        trace: The place of that call's span; None where it is not traced.
    """

    request_id: int
    model: int
    priority: Priority
    deadline: float | None
    caller: str
    iou_threshold: float
    extra_outputs: int
    slots: Sequence[int]
    call_id: str = ""
    trace: SpanContext | None = None


@dataclass(slots=True)
class Ran:
    """How an image ran.

    Attributes:
        inference_seconds: The run of its whole batch.
        batch_size: Images that ran together.
    """

    inference_seconds: float
    batch_size: int


class FrameError(Exception):
    """What came is no message: the other end is broken, and nothing that it says can be trusted."""


_HEAD = struct.Struct("<IB")
_LONGEST_BODY_BYTES = 256 * 1024 * 1024

_SUBMISSION = struct.Struct("<QIBBddHHI16sQ")
_NUMBER = struct.Struct("<Q")
_CALL = struct.Struct("<QB")
_REPLY = struct.Struct("<QI")
_IMAGE = struct.Struct("<ddI")
_SECONDS = struct.Struct("<d")
_NEVER = float("inf")
_NO_TRACE = SpanContext(0, 0)


def frame(kind: Kind, body: bytes = b"") -> bytes:
    """A message as bytes."""
    return _HEAD.pack(len(body), kind) + body


class FrameReader:
    """Cuts what comes over a stream into messages."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Yields each message that is complete with these bytes: its kind and its body.

        Raises:
            FrameError: A kind is unknown, or a body is longer than any may be.
        """
        data = self._left + data if self._left else data
        position = 0
        while len(data) - position >= _HEAD.size:
            length, number = _HEAD.unpack_from(data, position)
            if length > _LONGEST_BODY_BYTES:
                raise FrameError(f"a body of {length} bytes")
            start, end = position + _HEAD.size, position + _HEAD.size + length
            if end > len(data):
                break
            try:
                kind = Kind(number)
            except ValueError as error:
                raise FrameError(f"kind {number}") from error
            position = end
            yield kind, data[start:end]
        self._left = data[position:]


def pack_submission(one: Submission) -> bytes:
    """The body of `SUBMIT`."""
    caller, call_id = one.caller.encode(), one.call_id.encode()
    trace = one.trace or _NO_TRACE
    head = _SUBMISSION.pack(
        one.request_id,
        one.model,
        one.priority,
        one.extra_outputs,
        _NEVER if one.deadline is None else one.deadline,
        one.iou_threshold,
        len(caller),
        len(call_id),
        len(one.slots),
        trace.trace_id.to_bytes(16, "big"),
        trace.span_id,
    )
    return b"".join((head, caller, call_id, struct.pack(f"<{len(one.slots)}I", *one.slots)))


def unpack_submission(body: bytes) -> Submission:
    """Reads the body of `SUBMIT`.

    Raises:
        FrameError: It is none.
    """
    try:
        *known, caller_bytes, call_id_bytes, count, trace_id, span_id = _SUBMISSION.unpack_from(body)
        request_id, model, priority, extra, deadline, iou_threshold = known
        caller_end = _SUBMISSION.size + caller_bytes
        call_id_end = caller_end + call_id_bytes
        return Submission(
            request_id,
            model,
            Priority(priority),
            None if deadline == _NEVER else deadline,
            body[_SUBMISSION.size : caller_end].decode(),
            iou_threshold,
            extra,
            struct.unpack(f"<{count}I", body[call_id_end:]),
            body[caller_end:call_id_end].decode(),
            SpanContext(int.from_bytes(trace_id, "big"), span_id) if span_id else None,
        )
    except (struct.error, ValueError, MemoryError) as error:
        raise FrameError("no submission") from error


def pack_number(number: int) -> bytes:
    """The body of what says no more than a number: of a request, a model, or one of `MODELS`."""
    return _NUMBER.pack(number)


def unpack_number(body: bytes) -> int:
    """Reads what `pack_number` gave.

    Raises:
        FrameError: It is none.
    """
    try:
        (number,) = _NUMBER.unpack(body)
    except struct.error as error:
        raise FrameError("no number") from error
    return int(number)


def pack_reply(request_id: int, outcomes: Sequence[Outcome[Ran]]) -> bytes:
    """The body of `REPLY`: for each image its times, and the errors behind them, whose images have no batch."""
    body = bytearray(_REPLY.size + _IMAGE.size * len(outcomes))
    _REPLY.pack_into(body, 0, request_id, len(outcomes))
    position = _REPLY.size
    for outcome in outcomes:
        value = outcome.value
        if isinstance(value, RetinueError):
            _IMAGE.pack_into(body, position, outcome.queue_seconds or 0.0, 0.0, 0)
            body += pack_error(value)
        else:
            _IMAGE.pack_into(
                body, position, outcome.queue_seconds or 0.0, value.inference_seconds, value.batch_size
            )
        position += _IMAGE.size
    return bytes(body)


def unpack_reply(body: bytes) -> tuple[int, list[Outcome[Ran]]]:
    """Reads the body of `REPLY`: the request's number and an outcome for each image.

    Raises:
        FrameError: It is none.
    """
    try:
        request_id, count = _REPLY.unpack_from(body)
        images_end = _REPLY.size + _IMAGE.size * count
        position = images_end
        outcomes: list[Outcome[Ran]] = []
        for queue_seconds, inference_seconds, batch_size in _IMAGE.iter_unpack(
            body[_REPLY.size : images_end]
        ):
            if batch_size:
                outcomes.append(Outcome(Ran(inference_seconds, batch_size), queue_seconds))
            else:
                error, position = unpack_error(body, position)
                outcomes.append(Outcome(error, queue_seconds))
    except (struct.error, ValueError, IndexError) as error:
        raise FrameError("no reply") from error
    if len(outcomes) != count or position != len(body):
        raise FrameError("a reply of another length than it says")
    return request_id, outcomes


def pack_refusal(request_id: int, error: RetinueError) -> bytes:
    """The body of `REFUSED`."""
    return _NUMBER.pack(request_id) + pack_error(error)


def unpack_refusal(body: bytes) -> tuple[int, RetinueError]:
    """Reads the body of `REFUSED`.

    Raises:
        FrameError: It is none.
    """
    try:
        (request_id,) = _NUMBER.unpack_from(body)
        error, _ = unpack_error(body, _NUMBER.size)
    except (struct.error, ValueError, IndexError) as error_:
        raise FrameError("no refusal") from error_
    return request_id, error


def pack_call(call_id: int, method: str, request: bytes) -> bytes:
    """The body of `CALL`."""
    name = method.encode()
    return _CALL.pack(call_id, len(name)) + name + request


def unpack_call(body: bytes) -> tuple[int, str, bytes]:
    """Reads the body of `CALL`: its number, the method, and the request.

    Raises:
        FrameError: It is none.
    """
    try:
        call_id, name_bytes = _CALL.unpack_from(body)
        end = _CALL.size + name_bytes
        return call_id, body[_CALL.size : end].decode(), body[end:]
    except (struct.error, ValueError) as error:
        raise FrameError("no call") from error


def pack_answer(call_id: int, reply: bytes) -> bytes:
    """The body of `ANSWER`."""
    return _NUMBER.pack(call_id) + reply


def unpack_answer(body: bytes) -> tuple[int, bytes]:
    """Reads the body of `ANSWER`: the call's number, and the reply.

    Raises:
        FrameError: It is none.
    """
    return unpack_number(body[: _NUMBER.size]), body[_NUMBER.size :]


def pack_seconds(seconds: float) -> bytes:
    """The body of `DRAIN`."""
    return _SECONDS.pack(seconds)


def unpack_seconds(body: bytes) -> float:
    """Reads the body of `DRAIN`.

    Raises:
        FrameError: It is none.
    """
    try:
        (seconds,) = _SECONDS.unpack(body)
    except struct.error as error:
        raise FrameError("no seconds") from error
    return float(seconds)
