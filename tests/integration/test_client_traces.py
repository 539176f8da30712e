"""A client in an application that has OpenTelemetry: what it tells a collector beside what the server tells."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.collector import Collector, Received, collecting
from tests.server_process import ServerProcess, running_server

# Only this application names OpenTelemetry; the client finds it.
_APPLICATION = """
import asyncio, os, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import numpy as np
from retinue_client import AsyncClient, Client, RetinueError

server, collector = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector, insecure=True)))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("application")
red = np.full((8, 8, 3), (255, 0, 0), np.uint8)

with tracer.start_as_current_span("ordinary"), Client(server) as client:
    client.classify(red, model="colour-classifier")
    try:
        client.classify(red, model="no-such-model")
    except RetinueError:
        pass

async def ask():
    with tracer.start_as_current_span("asyncio"):
        async with AsyncClient(server) as client:
            await client.detect([red] * 3, model="colour-detector")
            left = asyncio.create_task(client.segment(b"not read", model="colour-segmenter"))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])

asyncio.run(ask())
mine = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
with Client(server) as client:
    client.segment(red, model="colour-segmenter", metadata=mine)
provider.shutdown()
"""


@pytest.fixture(scope="module")
def told(colour_models: Path) -> Iterator[Collector]:
    """All spans of the application and of the server."""
    with collecting() as collector:
        # Of calls whose callers keep their trace, as this application does, all are traced.
        arguments = ("--trace-endpoint", collector.endpoint, "--trace-callers-per-second", "1000")
        with running_server(
            colour_models, *arguments, environment={"OTEL_BSP_SCHEDULE_DELAY": "20"}
        ) as server:
            _run(server, collector)
        yield collector


def _run(server: ServerProcess, collector: Collector) -> None:
    command = [sys.executable, "-c", _APPLICATION, server.grpc_address, collector.endpoint]
    subprocess.run(command, check=True, timeout=60)
    # What it has to tell, it tells before it ends.
    assert server.terminate() == 0


def _only(spans: list[Received], **wanted: str) -> Received:
    (found,) = [one for one in spans if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


@pytest.mark.parametrize(
    ("outer", "method", "code"),
    [("ordinary", "Classify", 0), ("ordinary", "Classify", 5), ("asyncio", "Detect", 0)],
)
def test_the_servers_span_is_a_child_of_the_clients_and_that_of_the_applications(
    outer: str, method: str, code: int, told: Collector
) -> None:
    name = f"retinue.v1.VisionService/{method}"
    application = _only(told.received, name=outer)
    of_code = [one for one in told.received if one.attributes.get("rpc.grpc.status_code") == code]
    client = _only(of_code, name=name, kind="client")
    server = _only(of_code, name=name, kind="server")
    assert client.span.parent_span_id == application.span.span_id
    assert server.span.parent_span_id == client.span.span_id
    assert server.trace_id == client.trace_id == application.trace_id
    assert server.is_within(client)
    assert client.is_within(application)


def test_a_clients_span_says_who_was_asked_and_what_came_of_it(told: Collector) -> None:
    spans = [one for one in told.received if one.kind == "client" and one.name.endswith("/Classify")]
    answered, refused = sorted(spans, key=lambda one: one.span.start_time_unix_nano)
    address = answered.attributes.pop("server.address")
    assert address.startswith("127.0.0.1:")
    assert answered.attributes == {
        "server.address": address,
        "rpc.system": "grpc",
        "rpc.service": "retinue.v1.VisionService",
        "rpc.method": "Classify",
        "rpc.grpc.status_code": 0,
        "retinue.attempts": 1,
    }
    assert refused.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert "no-such-model" in refused.span.status.message
    assert (answered.span.status.code, refused.span.status.code) == (0, 2)


def test_the_span_of_a_call_that_nobody_waits_for_ends_without_an_outcome(told: Collector) -> None:
    spans = [one for one in told.received if one.name.endswith("/Segment") and one.kind == "client"]
    (left,) = [one for one in spans if "rpc.grpc.status_code" not in one.attributes]
    assert left.is_within(_only(told.received, name="asyncio"))


def test_who_says_what_a_call_is_a_part_of_is_believed(told: Collector) -> None:
    spans = [one for one in told.received if one.name.endswith("/Segment") and one.kind == "server"]
    assert "b7ad6b7169203331" in {one.span.parent_span_id.hex() for one in spans}
