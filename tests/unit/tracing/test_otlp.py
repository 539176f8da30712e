"""What OpenTelemetry is handed, and what becomes of it."""

import time

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.collector import collecting

from retinue_server.tracing.otlp import OtlpExport
from retinue_server.tracing.spans import Kind, Span, SpanContext

NOBODY = "http://127.0.0.1:1"


def span(context: SpanContext | None = None, **changes: object) -> Span:
    fields = {"name": "a span", "parent": None, "began_ns": 1, "ended_ns": 2, "attributes": {}}
    return Span(context=context or SpanContext.new(), **{**fields, **changes})  # type: ignore[arg-type]


def test_a_span_arrives_as_it_was_made() -> None:
    parent = SpanContext(1, 2, state="vendor=1", remote=True)
    one = span(
        SpanContext.new(parent),
        parent=parent,
        attributes={"retinue.model": "cats", "retinue.images": 3},
        kind=Kind.SERVER,
        links=[SpanContext(5, 6)],
        failed=True,
    )
    with collecting() as collector:
        export = OtlpExport(collector.endpoint)
        export.put([one])
        export.close(20)
        assert export.counts() == {"sent": 1, "failed": 0, "dropped": 0}
        (received,) = collector.received
    assert (received.name, received.kind) == ("a span", "server")
    assert received.attributes == {"retinue.model": "cats", "retinue.images": 3}
    assert (int(received.trace_id, 16), received.span.parent_span_id) == (1, (2).to_bytes(8, "big"))
    assert received.span.trace_state == "vendor=1"
    assert (received.span.start_time_unix_nano, received.span.end_time_unix_nano) == (1, 2)
    assert [link.span_id for link in received.span.links] == [(6).to_bytes(8, "big")]
    # STATUS_CODE_ERROR.
    assert received.span.status.code == 2


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    with collecting(hangs=True) as collector:
        export = OtlpExport(collector.endpoint)
        for _ in range(3000):
            export.put([span()])
        assert export.counts() == {"sent": 0, "failed": 0, "dropped": 3000 - 2048}
        began = time.monotonic()
        export.close(0.1)
        assert time.monotonic() - began < 5


@given(st.lists(st.text(), max_size=40).map(",".join) | st.text(alphabet="a=,;1@ \t", max_size=512))
def test_whatever_callers_say_of_their_state_a_span_can_be_made(state: str) -> None:
    with capture_logs() as logged:
        _EXPORT.put([span(SpanContext(1, 2, state=state), links=[SpanContext(3, 4, state=state)])])
    assert logged == []


_EXPORT = OtlpExport(NOBODY)
