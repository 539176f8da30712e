"""A span of OpenTelemetry for each request, where the application around this client uses OpenTelemetry."""

import sys
from typing import Any

from retinue_client._errors import RetinueError

# The application has it if this is among its modules.
OPENTELEMETRY = "opentelemetry.trace"
_NAME = "retinue_client"
_TRACEPARENT = "traceparent"


class Span:
    """A request on its way, as a span of kind client within what the application does.

    Source: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/

    Attributes:
        metadata: What goes beside the request, so that the server's span becomes a child of this one.
    """

    def __init__(self, path: str, address: str, metadata: tuple[tuple[str, str], ...]) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 (the application has them)

        service, _, method = path.rpartition("/")
        self._failed: Any = trace.StatusCode.ERROR
        self._span = trace.get_tracer(_NAME).start_span(
            path,
            kind=trace.SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "server.address": address,
            },
        )
        carrier: dict[str, str] = {}
        # Who says themselves what the call is a part of knows better.
        if all(name != _TRACEPARENT for name, _ in metadata):
            propagate.inject(carrier, context=trace.set_span_in_context(self._span))
        # Propagators name headers of HTTP, such as X-Amzn-Trace-Id; gRPC takes lower case only.
        self.metadata = (*metadata, *((name.lower(), value) for name, value in carrier.items()))

    def end(self, error: RetinueError | None, attempts: int) -> None:
        """The request has its answer, or none."""
        self._span.set_attribute("rpc.grpc.status_code", error.code.value[0] if error is not None else 0)
        self._span.set_attribute("retinue.attempts", attempts)
        if error is not None:
            self._span.set_attribute("error.type", error.reason)
            self._span.set_status(self._failed, error.message)
        self._span.end()

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._span.end()


def span_of(path: str, address: str, metadata: tuple[tuple[str, str], ...]) -> Span | None:
    """Begins the span of a request; None where another thread is still importing OpenTelemetry.

    Args:
        path: SERVICE/METHOD.
        address: Who is asked.
        metadata: What goes beside the request.
    """
    if not hasattr(sys.modules[OPENTELEMETRY], "get_tracer"):
        return None
    return Span(path, address, metadata)
