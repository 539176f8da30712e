"""What stays of a call when it has been answered: its trace, and its line in the log."""

from collections.abc import Callable
from random import random
from typing import TYPE_CHECKING

import grpc
import structlog
from retinue.inference import grpc_service_pb2
from retinue.v1 import vision_service_pb2

from retinue_server.tracing.origin import Origin, request_id_of
from retinue_server.tracing.spans import parent_of
from retinue_server.tracing.tracer import Tracer

if TYPE_CHECKING:
    from retinue_server.rpc.calls import Call, Context

_log = structlog.get_logger(__name__)

# The full names of methods, which are the names of their spans. Source: OpenTelemetry's semantic conventions for RPC.
_SPAN_NAMES = {
    method.name: f"{service.full_name}/{method.name}"
    for file in (vision_service_pb2, grpc_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_MOST_MESSAGE_CHARACTERS = 300


class CallRecords:
    """Traces some calls, and logs some: a share of all, and every one that this server failed at.

    Args:
        tracer: Chooses those that are traced; None traces none.
        log_share: Of the calls that did not fail, in [0, 1]; None has another process log all of them.
        chance: A number in [0, 1).
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        log_share: float | None = 0.0,
        chance: Callable[[], float] = random,
    ) -> None:
        self._tracer = tracer
        self._log_share = log_share
        self._chance = chance

    def begin(self, method: str, context: "Context") -> Origin:
        """Gives a call its id, and its trace if it is to have one.

        Args:
            method: The RPC's name.
            context: Whose it is.
        """
        metadata = tuple(context.invocation_metadata() or ())
        origin = Origin(request_id_of(metadata))
        if self._tracer is not None:
            origin.trace = self._tracer.begin(_SPAN_NAMES.get(method, method), metadata)
        return origin

    def fail(self, method: str, call: "Call", context: "Context") -> None:
        """Writes what the log has of a call whose answering has just raised what nobody expected."""
        trace_id = _trace_id(call, context)
        request_id = call.origin.request_id
        _log.exception(
            "call_failed", method=method, model=call.model, request_id=request_id, trace_id=trace_id
        )

    def end(self, method: str, call: "Call", code: str, seconds: float, context: "Context") -> None:
        """Ends the trace of a call, and writes its line, if there are to be any.

        Args:
            method: The RPC's name.
            call: What is known of it.
            code: Its gRPC status code.
            seconds: From its arrival to its answer.
            context: Whose it is.
        """
        trace = call.origin.trace
        if trace is not None:
            trace.end(code, _attributes(method, call, code, context.peer()))
        if self._log_share is None:
            return
        if call.origin.failures:
            failures = [message[:_MOST_MESSAGE_CHARACTERS] for message in call.origin.failures]
            line = _line(method, call, code, seconds, context)
            _log.error("call_with_failures", **line, failures=failures)
        elif self._log_share and self._chance() < self._log_share:
            _log.info("call", **_line(method, call, code, seconds, context))


def _trace_id(call: "Call", context: "Context") -> str:
    """The trace of a call, its caller's where this server has none of it; empty where nobody has."""
    if call.origin.trace is not None:
        return call.origin.trace.context.trace_name
    parent = parent_of(tuple(context.invocation_metadata() or ()))
    return parent.trace_name if parent is not None else ""


def _line(
    method: str, call: "Call", code: str, seconds: float, context: "Context"
) -> dict[str, str | int | float]:
    """What the log says of a call. Of what its caller may choose there is only an id that is fit to be printed."""
    return {
        "method": method,
        "model": call.model,
        "version": call.version,
        "code": code,
        "seconds": round(seconds, 6),
        "images": call.images,
        "request_bytes": call.holding.request_bytes,
        "request_id": call.origin.request_id,
        "trace_id": _trace_id(call, context),
        "token": call.token.name if call.token is not None else "",
        "peer": context.peer(),
    }


def _attributes(method: str, call: "Call", code: str, peer: str) -> dict[str, str | int]:
    service, _, _ = _SPAN_NAMES.get(method, method).rpartition("/")
    return {
        "rpc.system": "http" if peer.startswith("http") else "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
        "retinue.model": call.model,
        "retinue.version": call.version,
        "retinue.images": call.images,
        "retinue.failures": len(call.origin.failures),
        "retinue.request_bytes": call.holding.request_bytes,
        "retinue.request_id": call.origin.request_id,
    }
