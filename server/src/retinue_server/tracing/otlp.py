"""Sends spans to a collector over OTLP; the only module that imports OpenTelemetry."""

import logging
import threading
import time
from collections.abc import Sequence

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from retinue_server import __version__
from retinue_server.errors import StartupError
from retinue_server.tracing import spans
from retinue_server.tracing.spans import Kind, Span

_log = structlog.get_logger(__name__)

# Spans that may wait for the collector: some megabytes.
_MOST_WAITING = 2048
_WARN_SECONDS = 60.0
_KINDS = {Kind.SERVER: SpanKind.SERVER, Kind.INTERNAL: SpanKind.INTERNAL}
# What OpenTelemetry calls a service that has no name.
_NAMELESS = "unknown_service"


class OtlpExport:
    """Has spans sent by a thread of OpenTelemetry's, which waits for the collector so that nobody else does.

    How it is reached besides, and who this server is to it, the standard's OTEL_* variables say.

    Args:
        endpoint: The collector's, http://HOST:PORT or https://HOST:PORT.

    Raises:
        StartupError: A variable of OpenTelemetry's is not what it takes.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            self._sender = _Sender(endpoint)
            self._processor = BatchSpanProcessor(self._sender, max_queue_size=_MOST_WAITING)
            resource = Resource.create()
        except Exception as error:
            # What it raises has no base of its own.
            raise StartupError(
                f"the environment's OTEL_* variables are not what OpenTelemetry takes: {error}."
            ) from error
        named = not str(resource.attributes.get(SERVICE_NAME, "")).startswith(_NAMELESS)
        own = {} if named else {SERVICE_NAME: "retinue"}
        self._resource = resource.merge(Resource({**own, SERVICE_VERSION: __version__}))
        self._scope = InstrumentationScope("retinue_server", __version__)

    def put(self, made: Sequence[Span]) -> None:
        """Takes spans to send. Where too many wait, they are dropped and counted."""
        # Nothing here may cost a call its answer.
        try:
            readable = [self._readable(span) for span in made]
        except Exception:
            _log.exception("spans_not_made")
            return
        if self._sender.admit(len(made)):
            for span in readable:
                self._processor.on_end(span)

    def counts(self) -> dict[str, int]:
        """Spans by what became of them."""
        return self._sender.counts()

    def close(self, timeout_seconds: float) -> None:
        """Sends what waits; gives up after the timeout."""
        # It waits for half a minute, whatever it is told.
        closing = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(timeout_seconds)
        self._sender.give_up()

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=_context(span.context),
            parent=_context(span.parent) if span.parent else None,
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_context(link)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


class _Sender(SpanExporter):
    """OpenTelemetry's exporter, with its failures counted and said once a minute."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._lock = threading.Lock()
        self._counts = {"sent": 0, "failed": 0, "dropped": 0}
        self._waiting = 0
        self._warned = -_WARN_SECONDS
        self._given_up = False
        self._said = _LastWords()

    def admit(self, count: int) -> bool:
        """Counts spans that are to be sent; returns whether there is room for them."""
        with self._lock:
            if self._waiting + count > _MOST_WAITING:
                self._counts["dropped"] += count
                return False
            self._waiting += count
            return True

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        with self._lock:
            self._waiting -= len(spans)
            self._counts["sent" if result is SpanExportResult.SUCCESS else "failed"] += len(spans)
            now = time.monotonic()
            warn = result is not SpanExportResult.SUCCESS and now - self._warned >= _WARN_SECONDS
            if warn:
                self._warned = now
        if warn:
            _log.warning("traces_not_sent", endpoint=self._endpoint, reason=self._said.text, **self.counts())
        return result

    def give_up(self) -> None:
        """Ends what is being sent."""
        if not self._given_up:
            self._given_up = True
            self._exporter.shutdown()

    def shutdown(self) -> None:
        self.give_up()


class _LastWords(logging.Handler):
    """Keeps the last of what OpenTelemetry says of the collector, which would be in the log at each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        logger = logging.getLogger("opentelemetry.exporter")
        logger.handlers, logger.propagate = [self], False
        # It repeats what callers say of their traces.
        logging.getLogger("opentelemetry.trace").setLevel(logging.CRITICAL)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def _context(context: spans.SpanContext) -> SpanContext:
    return SpanContext(
        context.trace_id,
        context.span_id,
        context.remote,
        TraceFlags(TraceFlags.SAMPLED),
        TraceState.from_header([context.state]) if context.state else None,
    )
