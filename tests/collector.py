"""A collector of traces in the test's process, as OpenTelemetry's: it takes spans over OTLP, or hangs."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

_TIMEOUT_SECONDS = 20.0
_KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
}


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    span: trace_pb2.Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def kind(self) -> str:
        return _KINDS[self.span.kind]

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return _values(self.span.attributes)

    @property
    def seconds(self) -> float:
        return (self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e9

    def is_within(self, other: "Received") -> bool:
        """Whether its time is a part of another's."""
        ours, theirs = self.span, other.span
        return (
            theirs.start_time_unix_nano <= ours.start_time_unix_nano
            and ours.end_time_unix_nano <= theirs.end_time_unix_nano
        )


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what comes.

    Args:
        hangs: Whether it answers nobody, until `release`.

    Attributes:
        endpoint: http://HOST:PORT.
        headers: What came beside the latest spans.
    """

    def __init__(self, *, hangs: bool = False) -> None:
        self.endpoint = ""
        self.headers: dict[str, Any] = {}
        self.asked = threading.Event()
        self._released = threading.Event()
        if not hangs:
            self._released.set()
        self._changed = threading.Condition()
        self._received: list[Received] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans."""
        self.asked.set()
        self._released.wait()
        with self._changed:
            self.headers = dict(context.invocation_metadata())
            for resource in request.resource_spans:
                told = _values(resource.resource.attributes)
                self._received += [
                    Received(span, told) for scope in resource.scope_spans for span in scope.spans
                ]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def release(self) -> None:
        """Answers, from now on."""
        self._released.set()

    @property
    def received(self) -> list[Received]:
        """All that has come."""
        with self._changed:
            return list(self._received)

    def wait_for_call(self, request_id: str) -> tuple[Received, list[Received]]:
        """The span of a call, and those within it."""

        def found() -> list[Received]:
            return [one for one in self._received if one.attributes.get("retinue.request_id") == request_id]

        with self._changed:
            assert self._changed.wait_for(lambda: bool(found()), _TIMEOUT_SECONDS), (
                f"no call {request_id} among {[one.name for one in self._received]}"
            )
            (call,) = found()
            children = [one for one in self._received if one.span.parent_span_id == call.span.span_id]
        return call, children

    def wait_for_batch_of(self, call: Received) -> Received:
        """A batch that ran for a call."""

        def found() -> list[Received]:
            return [
                one
                for one in self._received
                if one.name == "batch" and any(link.span_id == call.span.span_id for link in one.span.links)
            ]

        with self._changed:
            assert self._changed.wait_for(lambda: bool(found()), _TIMEOUT_SECONDS), "no batch"
            return found()[0]


@contextmanager
def collecting(*, hangs: bool = False) -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector(hangs=hangs)
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        collector.release()
        server.stop(None).wait()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
