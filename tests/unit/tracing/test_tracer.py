import builtins
import time
from typing import Any

import pytest

from retinue_server.errors import StartupError
from retinue_server.settings import Settings
from retinue_server.tracing.sampling import Sampling
from retinue_server.tracing.spans import Span
from retinue_server.tracing.tracer import CallTrace, Stages, Tracer


def traced(spans: list[Span]) -> CallTrace:
    trace = Tracer(spans.extend, Sampling(1, 1)).begin("a.Service/Method", ())
    assert trace is not None
    return trace


def seconds(span: Span) -> float:
    return round((span.ended_ns - span.began_ns) / 1e9, 4)


def laid(spans: list[Span], began_ns: int) -> list[tuple[str, float, float]]:
    """Each span's name, when it begins after the first, and how long it is."""
    return [(one.name, round((one.began_ns - began_ns) / 1e9, 4), seconds(one)) for one in spans]


def test_stages_of_an_image_follow_each_other() -> None:
    spans: list[Span] = []
    trace = traced(spans)
    trace.ran("cats", 3, time.monotonic() - 1, [Stages(0.1, 0.2, 0.3, 0.05, 1)])
    trace.end("OK", {})
    *stages, call = spans
    assert laid(stages, stages[0].began_ns) == [
        ("queue", 0.0, 0.1),
        ("decode", 0.1, 0.2),
        ("inference", 0.3, 0.3),
        ("postprocess", 0.6, 0.05),
    ]
    assert all(one.parent == call.context for one in stages)


def test_images_that_ran_together_are_one_span_a_stage() -> None:
    spans: list[Span] = []
    trace = traced(spans)
    image = Stages(0.1, 0.05, 0.3, 0.01, 3)
    trace.ran("cats", 3, time.monotonic() - 1, [image, image, Stages(0.5, 0.05, 0.2, 0.01, 1)])
    trace.end("OK", {})
    stages = [(one.name, one.attributes["retinue.images"], seconds(one)) for one in spans[:-1]]
    assert stages == [
        ("queue", 2, 0.1),
        ("decode", 2, 0.1),
        ("inference", 2, 0.3),
        ("postprocess", 2, 0.02),
        ("queue", 1, 0.5),
        ("decode", 1, 0.05),
        ("inference", 1, 0.2),
        ("postprocess", 1, 0.01),
    ]


def test_what_several_threads_decode_takes_as_long_as_the_longest() -> None:
    spans: list[Span] = []
    trace = traced(spans)
    trace.ran("cats", 3, time.monotonic() - 0.5, [Stages(0.0, 0.2, 0.1, 0.0, 8)] * 8)
    trace.end("OK", {})
    assert seconds(spans[1]) == 0.2


def test_the_spans_of_a_call_are_bounded_and_it_says_how_many_are_left_out() -> None:
    spans: list[Span] = []
    trace = traced(spans)
    for number in range(100):
        trace.ran("cats", 3, time.monotonic() - 1, [Stages(number / 1000, 0, 0, 0, 1)])
    trace.end("OK", {})
    assert len(spans) == 65
    assert spans[-1].attributes["retinue.spans_left_out"] == 336


@pytest.mark.parametrize(
    ("code", "failed"),
    [("OK", False), ("NOT_FOUND", False), ("RESOURCE_EXHAUSTED", False), ("INTERNAL", True)],
)
def test_only_what_the_server_failed_at_is_an_error(code: str, failed: bool) -> None:
    spans: list[Span] = []
    traced(spans).end(code, {})
    assert spans[0].failed is failed


def test_without_opentelemetry_an_endpoint_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "retinue_server.tracing.otlp":
            raise ModuleNotFoundError("No module named 'opentelemetry'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert Tracer.of(Settings()) is None
    with pytest.raises(StartupError, match=r"install retinue-server\[otel\]"):
        Tracer.of(Settings(trace_endpoint="http://127.0.0.1:4317"))


def test_variables_that_opentelemetry_does_not_take_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(StartupError, match=r"OTEL_\* variables .*soon"):
        Tracer.of(Settings(trace_endpoint="http://127.0.0.1:4317"))
