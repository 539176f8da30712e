"""Traces of a real server at a real collector's end."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import TIMEOUT_SECONDS, Connection, connected, flat
from tests.collector import Collector, Received, collecting
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

STAGES = ["queue", "decode", "inference", "postprocess"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
# Spans are sent soon.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}


@dataclass(frozen=True)
class Traced:
    """A server that traces all calls, and the collector that it tells."""

    server: ServerProcess
    collector: Collector
    connection: Connection


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def traced(request: pytest.FixtureRequest, colour_models: Path) -> Iterator[Traced]:
    with collecting() as collector:
        arguments = ("--trace-endpoint", collector.endpoint, "--trace-sample-share", "1")
        environment = {
            **SOON,
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=of-the-collector",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        workers = ("--workers", str(request.param))
        with (
            running_server(colour_models, *arguments, *workers, environment=environment) as server,
            connected(server.grpc_address) as connection,
        ):
            yield Traced(server, collector, connection)


def told(connection: Connection, method: str, request: Message, **metadata: str) -> tuple[Any, str]:
    """Makes a call; returns the reply and the id that the server gave the call."""
    entries = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    reply, call = getattr(connection.vision, method).with_call(
        request, timeout=TIMEOUT_SECONDS, metadata=entries
    )
    return reply, dict(call.trailing_metadata())["x-request-id"]


def by_name(spans: list[Received], *names: str) -> list[Received]:
    return [one for name in names for one in spans if one.name == name]


def test_a_call_is_a_span_with_its_stages_within(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(255, 0, 0)])
    _, request_id = told(traced.connection, "Classify", request)
    call, stages = traced.collector.wait_for_call(request_id)

    assert (call.name, call.kind) == ("retinue.v1.VisionService/Classify", "server")
    assert not call.span.parent_span_id
    attributes = call.attributes
    assert attributes.pop("retinue.request_bytes") == request.ByteSize()
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.service": "retinue.v1.VisionService",
        "rpc.method": "Classify",
        "rpc.grpc.status_code": 0,
        "retinue.model": "colour-classifier",
        "retinue.version": "1",
        "retinue.images": 1,
        "retinue.failures": 0,
        "retinue.request_id": request_id,
    }
    assert call.resource["service.name"] == "retinue"
    assert call.resource["deployment.environment.name"] == "test"
    assert traced.collector.headers["api-key"] == "of-the-collector"

    assert [one.name for one in stages] == STAGES
    for one in stages:
        assert (one.trace_id, one.kind) == (call.trace_id, "internal")
        assert one.is_within(call)
        assert one.attributes["retinue.model"] == "colour-classifier"
    ends = [one.span.end_time_unix_nano for one in stages]
    assert ends == sorted(ends)
    assert by_name(stages, "decode", "inference")[1].seconds > 0


def test_a_batch_is_a_trace_of_its_own_with_links_both_ways(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(255, 0, 0)])
    _, request_id = told(traced.connection, "Classify", request)
    call, stages = traced.collector.wait_for_call(request_id)
    batch = traced.collector.wait_for_batch_of(call)

    assert batch.trace_id != call.trace_id
    assert not batch.span.parent_span_id
    assert batch.attributes == {
        "retinue.model": "colour-classifier",
        "retinue.version": "1",
        "retinue.batch_size": 1,
    }
    assert [link.trace_id.hex() for link in batch.span.links] == [call.trace_id]
    (inference,) = by_name(stages, "inference")
    assert [link.span_id for link in inference.span.links] in ([batch.span.span_id], [])


def test_a_caller_s_trace_goes_on_over_grpc_and_http(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(255, 0, 0)])
    _, request_id = told(
        traced.connection,
        "Classify",
        request,
        traceparent=SAMPLED,
        tracestate="vendor=its-own",
        x_request_id="over-grpc",
    )
    assert request_id == "over-grpc"
    over_http = httpx.get(
        f"{traced.server.http_url}/v1/models/colour-classifier",
        headers={"traceparent": SAMPLED, "x-request-id": "over-http"},
    )
    assert over_http.headers["x-request-id"] == "over-http"
    for one in ("over-grpc", "over-http"):
        call, _ = traced.collector.wait_for_call(one)
        assert (call.trace_id, call.span.parent_span_id.hex()) == (TRACE, PARENT)
    call, stages = traced.collector.wait_for_call("over-grpc")
    assert call.span.trace_state == "vendor=its-own"
    assert {one.trace_id for one in stages} == {TRACE}


def test_what_a_caller_does_not_keep_is_not_traced(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 255, 0)])
    told(traced.connection, "Classify", request, traceparent=UNSAMPLED, x_request_id="unsampled")
    # What came after it is there, and it is not.
    _, later = told(traced.connection, "Classify", request)
    traced.collector.wait_for_call(later)
    assert "unsampled" not in {one.attributes.get("retinue.request_id") for one in traced.collector.received}


def test_a_refused_call_has_its_code_and_only_what_this_server_failed_at_is_an_error(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="nobody", images=[flat(0)])
    with pytest.raises(grpc.RpcError) as raised:
        traced.connection.vision.Classify(request, timeout=TIMEOUT_SECONDS)
    request_id = dict(raised.value.trailing_metadata())["x-request-id"]
    call, stages = traced.collector.wait_for_call(request_id)
    assert call.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert not call.span.status.code
    assert not stages


def test_many_images_of_a_call_are_a_few_spans(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)] * 200)
    _, request_id = told(traced.connection, "Classify", request)
    call, stages = traced.collector.wait_for_call(request_id)
    assert len(stages) <= 64
    assert all(one.is_within(call) for one in stages)
    if "retinue.spans_left_out" not in call.attributes:
        assert sum(one.attributes["retinue.images"] for one in by_name(stages, "decode")) == 200


def test_the_classifier_of_what_was_found_has_stages_of_its_own(traced: Traced) -> None:
    request = pb.DetectRequest(
        model="colour-detector",
        images=[flat(0, 255, 0)],
        score_threshold=0.3,
        classify_with=pb.ClassifyWith(top_k=1),
    )
    _, request_id = told(traced.connection, "Detect", request)
    _, stages = traced.collector.wait_for_call(request_id)
    models = [one.attributes["retinue.model"] for one in stages]
    assert models == ["colour-detector"] * 4 + ["colour-classifier"] * 4


def test_latencies_name_a_trace_where_they_are_asked_for_as_openmetrics(traced: Traced) -> None:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(255, 0, 0)])
    _, request_id = told(traced.connection, "Classify", request)
    call, _ = traced.collector.wait_for_call(request_id)
    url = f"{traced.server.http_url}/metrics"
    page = httpx.get(url, headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    named = f'# {{trace_id="{call.trace_id}"}} '
    lines = [line.split("_bucket{")[0] for line in page.splitlines() if named in line]
    assert set(lines) == {"retinue_request_duration_seconds", "retinue_stage_duration_seconds"}
    families = list(text_string_to_metric_families(page))
    assert len(families) > 10
    # Other formats have no place for it.
    assert "trace_id" not in httpx.get(url).text


def test_what_was_sent_is_counted(traced: Traced) -> None:
    wait_until(
        lambda: MetricsPage(traced.server.http_url).total("retinue_trace_spans_total", outcome="sent") > 0,
        "spans to be counted",
    )
    page = MetricsPage(traced.server.http_url)
    assert page.total("retinue_trace_spans_total", outcome="failed") == 0


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_collector_that_hangs_delays_no_call_and_the_end_by_seconds(
    workers: str, colour_models: Path
) -> None:
    with collecting(hangs=True) as collector:
        arguments = (
            "--trace-endpoint",
            collector.endpoint,
            "--trace-sample-share",
            "1",
            "--workers",
            workers,
        )
        with running_server(colour_models, *arguments, environment=SOON) as server:
            with connected(server.grpc_address) as connection:
                connection.classify(flat(255, 0, 0), model="colour-classifier")
                assert collector.asked.wait(TIMEOUT_SECONDS)
                for _ in range(20):
                    connection.classify(flat(255, 0, 0), model="colour-classifier")
            began = time.monotonic()
            assert server.terminate() == 0
            assert time.monotonic() - began < 15


def test_a_collector_that_is_away_is_one_warning(colour_models: Path) -> None:
    arguments = ("--trace-endpoint", "http://127.0.0.1:1", "--trace-sample-share", "1")
    quick = {**SOON, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
    with running_server(colour_models, *arguments, environment=quick) as server:
        with connected(server.grpc_address) as connection:
            connection.classify(flat(255, 0, 0), model="colour-classifier")
            warning = server.wait_for_event("traces_not_sent")
            failed = MetricsPage(server.http_url).total("retinue_trace_spans_total", outcome="failed")
            for _ in range(3):
                connection.classify(flat(255, 0, 0), model="colour-classifier")
            wait_until(
                lambda: (
                    MetricsPage(server.http_url).total("retinue_trace_spans_total", outcome="failed") > failed
                ),
                "more spans to fail",
            )
        assert warning["endpoint"] == "http://127.0.0.1:1"
        assert "UNAVAILABLE" in warning["reason"]
        assert server.terminate() == 0
    assert [event["event"] for event in server.events if event["level"] != "info"] == ["traces_not_sent"]


def test_what_is_left_is_sent_at_the_end(colour_models: Path) -> None:
    with collecting() as collector:
        arguments = ("--trace-endpoint", collector.endpoint, "--trace-sample-share", "1")
        late = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with running_server(colour_models, *arguments, environment=late) as server:
            with connected(server.grpc_address) as connection:
                connection.classify(flat(255, 0, 0), model="colour-classifier")
            assert not collector.received
            assert server.terminate() == 0
        assert "retinue.v1.VisionService/Classify" in {one.name for one in collector.received}


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import json, sys, retinue_server.app, retinue_server.frontend; "
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
