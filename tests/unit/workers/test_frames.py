import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_server import errors
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import (
    DeadlineExpiredError,
    EngineError,
    ImageError,
    ModelControlError,
    OverloadedError,
    RetinueError,
    StartupError,
    UnavailableError,
)
from retinue_server.tracing.spans import SpanContext
from retinue_server.workers import frames
from retinue_server.workers.frames import FrameError, FrameReader, Kind, Ran, Submission

_ERRORS = [
    OverloadedError("full.", retry_after_seconds=0.25, reason="DEADLINE_TOO_SHORT"),
    UnavailableError("the server is shutting down.", reason="DRAINING"),
    DeadlineExpiredError("the deadline passed."),
    EngineError("the model failed – on this batch."),
    ImageError("no image."),
    ModelControlError("the bundle does not hold.", reason="BUNDLE_INVALID"),
    RetinueError("internal."),
]


def _submission(**changes: object) -> Submission:
    fields = {
        "request_id": 2**40,
        "model": 3,
        "priority": Priority.LOW,
        "deadline": 1234.5,
        "caller": "ipv4:127.0.0.1:1",
        "iou_threshold": 0.45,
        "extra_outputs": 2,
        "slots": (7, 0, 4_000_000_000),
    }
    return Submission(**{**fields, **changes})  # type: ignore[arg-type]


def _same(error: RetinueError, other: object) -> bool:
    assert isinstance(other, RetinueError)
    return (type(error), error.message, error.reason) == (type(other), other.message, other.reason)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"deadline": None},
        {"caller": ""},
        {"caller": "unix:é"},
        {"slots": (1,)},
        {"priority": Priority.HIGH},
        {"call_id": "a-call"},
        {"call_id": "a-call", "trace": SpanContext(2**127 + 1, 2**63 + 1)},
    ],
)
def test_a_submission_comes_out_as_it_went_in(changes: dict[str, object]) -> None:
    one = _submission(**changes)
    assert frames.unpack_submission(frames.pack_submission(one)) == one


def test_a_reply_carries_times_and_errors_in_order() -> None:
    ran = Ran(0.01, 4)
    outcomes = [
        Outcome(ran, 0.1),
        *(Outcome(error, 0.2) for error in _ERRORS),
        Outcome(ran, 0.3),
    ]
    number, read = frames.unpack_reply(frames.pack_reply(9, outcomes))
    assert number == 9
    assert [one.queue_seconds for one in read] == [0.1, *[0.2] * len(_ERRORS), 0.3]
    assert read[0].value == read[-1].value == ran
    for error, one in zip(_ERRORS, read[1:-1], strict=True):
        assert _same(error, one.value)


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_class_reason_and_message(error: RetinueError) -> None:
    number, read = frames.unpack_refusal(frames.pack_refusal(1, error))
    assert number == 1
    assert _same(error, read)
    if isinstance(error, OverloadedError):
        assert isinstance(read, OverloadedError)
        assert read.retry_after_seconds == error.retry_after_seconds


def test_every_error_that_a_caller_may_be_told_of_keeps_its_class() -> None:
    told = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, RetinueError) and not issubclass(one, StartupError)
    ]
    for kind in told:
        more = {"retry_after_seconds": 1.0} if kind is OverloadedError else {}
        _, read = frames.unpack_refusal(frames.pack_refusal(1, kind("why.", **more)))
        assert type(read) is kind


def test_an_error_of_a_class_of_its_own_travels_as_its_base() -> None:
    class Special(ImageError):
        """Known to one module only."""

    _, read = frames.unpack_refusal(frames.pack_refusal(1, Special("odd.")))
    assert type(read) is ImageError


def test_a_call_and_its_answer_come_out_as_they_went_in() -> None:
    for request in (b"", b"a request"):
        call = (2**40, "RepositoryModelLoad", request)
        assert frames.unpack_call(frames.pack_call(*call)) == call
        assert frames.unpack_answer(frames.pack_answer(2**40, request)) == (2**40, request)


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=50)), max_size=8),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_messages_are_read_however_the_stream_is_cut(
    messages: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frames.frame(kind, body) for kind, body in messages)
    reader = FrameReader()
    read = []
    for size in [*cuts, len(stream)]:
        piece, stream = stream[:size], stream[size:]
        read += list(reader.feed(piece))
    assert read + list(reader.feed(stream)) == messages


@pytest.mark.parametrize("data", [b"\0\0\0\0\xff", struct.pack("<IB", 2**31, Kind.REPLY)])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(data))


@given(st.binary(max_size=200))
def test_garbage_in_a_body_is_refused_and_nothing_else_is_raised(body: bytes) -> None:
    for unpack in (
        frames.unpack_submission,
        frames.unpack_reply,
        frames.unpack_refusal,
        frames.unpack_number,
        frames.unpack_seconds,
        frames.unpack_call,
        frames.unpack_answer,
    ):
        try:
            unpack(body)
        except FrameError:
            continue


@given(st.data())
def test_a_cut_off_body_is_refused(data: st.DataObject) -> None:
    reply = frames.pack_reply(1, [Outcome(Ran(0.1, 1), 0.1), Outcome(EngineError("failed."), 0.1)])
    submission = frames.pack_submission(_submission())
    for body, unpack in ((reply, frames.unpack_reply), (submission, frames.unpack_submission)):
        with pytest.raises(FrameError):
            unpack(body[: data.draw(st.integers(0, len(body) - 1))])
