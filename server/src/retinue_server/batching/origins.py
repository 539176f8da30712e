"""The calls that a batch runs for: what their traces are told of it, and what the log says of them."""

import secrets
from collections.abc import Iterable, Sequence

import structlog

from retinue_server.batching.tickets import Job
from retinue_server.errors import EngineError
from retinue_server.tracing.origin import Origin

_log = structlog.get_logger(__name__)

# Requests of a failed batch that the log names.
_MOST_NAMED = 8


def trace_batch(model: str, jobs: Sequence[Job], began: float, ended: float) -> None:
    """Makes a span of a batch that has run, if any of its calls is traced, and tells those of it.

    Args:
        model: NAME/VERSION.
        jobs: Of the batch.
        began: When, on time.monotonic.
        ended: Likewise.
    """
    traces = [origin.trace for origin in _origins(jobs) if origin.trace is not None]
    if not traces:
        return
    contexts = [trace.context for trace in traces]
    context = traces[0].tracer.trace_batch(model, len(jobs), began, ended, contexts)
    for job in jobs:
        origin = job.ticket.origin
        if origin is not None and origin.trace is not None:
            origin.trace.ran_in(began - job.queued_at, context)


def failure(model: str, jobs: Sequence[Job], event: str) -> EngineError:
    """What the calls of a batch are told whose run has just raised; the log says more, and names a few of them.

    Args:
        model: NAME/VERSION.
        jobs: Of the batch.
        event: What the log calls it.
    """
    error_id = secrets.token_hex(8)
    origins = _origins(jobs)[:_MOST_NAMED]
    _log.exception(
        event,
        model=model,
        batch_size=len(jobs),
        error_id=error_id,
        request_ids=[origin.request_id for origin in origins],
        trace_ids=[origin.trace.context.trace_name for origin in origins if origin.trace is not None],
    )
    return EngineError(f"the model failed on this batch; the server logged it as {error_id}.")


def _origins(jobs: Iterable[Job]) -> list[Origin]:
    """Each once, in the order of the jobs."""
    return list({job.ticket.origin: None for job in jobs if job.ticket.origin is not None})
