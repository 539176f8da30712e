"""What callers say of their traces, of which they may say anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_server.tracing.origin import request_id_of
from retinue_server.tracing.spans import SpanContext, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_caller_s_span_is_the_parent() -> None:
    found = parent_of([("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert found == SpanContext(int(TRACE, 16), int(SPAN, 16), True, "a=1,b=2", remote=True)
    assert found.trace_name == TRACE


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_the_last_bit_says_whether_the_caller_keeps_the_trace(flags: str, sampled: bool) -> None:
    found = parent_of([("traceparent", f"00-{TRACE}-{SPAN}-{flags}")])
    assert found is not None
    assert found.sampled is sampled


def test_later_versions_may_say_more() -> None:
    assert parent_of([("traceparent", f"cc-{TRACE}-{SPAN}-01-what-ever")]) is not None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        GOOD + "\n" + GOOD,
        GOOD.encode(),
    ],
    ids=repr,
)
def test_what_is_no_span_is_no_parent(value: str | bytes) -> None:
    assert parent_of([("traceparent", value)]) is None


def test_of_two_parents_neither_is_taken() -> None:
    assert parent_of([("traceparent", GOOD), ("traceparent", GOOD)]) is None


def test_a_state_that_is_too_long_is_not_passed_on() -> None:
    found = parent_of([("traceparent", GOOD), ("tracestate", "a=" + "x" * 511)])
    assert found is not None
    assert found.state == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(["traceparent", "tracestate", "x-request-id"]), st.text() | st.binary())
    )
)
def test_nothing_that_a_caller_says_fails(metadata: list[tuple[str, str | bytes]]) -> None:
    parent_of(metadata)
    found = request_id_of(metadata)
    assert found.isascii()
    assert found.isprintable()
    assert 0 < len(found) <= 128


@pytest.mark.parametrize("value", ["7f3c", "Root=1-67891233-abcdef", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"])
def test_a_caller_s_id_is_kept(value: str) -> None:
    assert request_id_of([("x-request-id", value)]) == value


@pytest.mark.parametrize(
    "value", ["", "two words", "a\nb", "\x1b[2J", "é", "x" * 129, "'\"", b"abc"], ids=repr
)
def test_an_id_that_is_not_fit_to_be_printed_is_replaced(value: str | bytes) -> None:
    first, second = (request_id_of([("x-request-id", value)]) for _ in range(2))
    assert len(first) == 16
    assert first != second
