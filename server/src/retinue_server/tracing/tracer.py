"""The traces of calls, made after the fact from the times that are measured for every image anyway."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from retinue_server.errors import StartupError
from retinue_server.settings import Settings
from retinue_server.tracing.sampling import Sampling
from retinue_server.tracing.spans import Entries, Kind, Span, SpanContext, parent_of

# What a collector that does not answer delays the end of the server by.
LAST_SPANS_SECONDS = 3.0

# Of one call, the call's own not counted: there are four for each batch that it has images in.
_MOST_SPANS = 64
# Source: OpenTelemetry's semantic conventions for gRPC, of servers.
_FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

Export = Callable[[Sequence[Span]], None]


class Stages(NamedTuple):
    """Where the time of an image went that has an answer; `results.Answer` says what each is."""

    queue_seconds: float
    decode_seconds: float
    inference_seconds: float
    postprocess_seconds: float
    batch_size: int


class Tracer:
    """Makes the traces of a process.

    Args:
        export: Takes spans, at once and from any thread.
        sampling: Chooses the calls.
        close: Sends what is left, for at most so many seconds.
        counts: How many spans there were, by what became of them.
    """

    def __init__(
        self,
        export: Export,
        sampling: Sampling,
        *,
        close: Callable[[float], None] = lambda seconds: None,
        counts: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self.export = export
        self.close = close
        self.counts = counts
        self._sampling = sampling

    @classmethod
    def of(cls, settings: Settings) -> "Tracer | None":
        """That of a server, or None where it sends no traces; then nothing of OpenTelemetry is imported.

        Raises:
            StartupError: OpenTelemetry is not installed, or does not take its own settings.
        """
        if not settings.trace_endpoint:
            return None
        try:
            from retinue_server.tracing.otlp import OtlpExport  # noqa: PLC0415
        except ImportError as error:
            raise StartupError(
                "--trace-endpoint needs OpenTelemetry, which is not installed; install retinue-server[otel], or leave "
                "the setting out."
            ) from error
        export = OtlpExport(settings.trace_endpoint)
        sampling = Sampling(settings.trace_sample_share, settings.trace_callers_per_second)
        return cls(export.put, sampling, close=export.close, counts=export.counts)

    def begin(self, name: str, metadata: Entries) -> "CallTrace | None":
        """Begins to trace a call, if it is one of those that are.

        Args:
            name: Of the server's span.
            metadata: What came beside the call.
        """
        parent = parent_of(metadata)
        if not self._sampling.chooses(parent):
            return None
        return CallTrace(self, name, parent)

    def trace_batch(
        self, model: str, size: int, began: float, ended: float, requests: Iterable[SpanContext]
    ) -> SpanContext:
        """A batch that has run, as a trace of its own: it is no part of any one of its requests.

        Args:
            model: NAME/VERSION.
            size: Its images.
            began: When, on time.monotonic.
            ended: Likewise.
            requests: Those of its requests that are traced.

        Returns:
            Its place.
        """
        name, _, version = model.rpartition("/")
        context = SpanContext.new()
        self.export(
            [
                Span(
                    "batch",
                    context,
                    None,
                    unix_ns(began),
                    unix_ns(ended),
                    {"retinue.model": name, "retinue.version": version, "retinue.batch_size": size},
                    links=list(requests),
                )
            ]
        )
        return context


class CallTrace:
    """The trace of one call.

    Args:
        tracer: Whose.
        name: Of the call's span.
        parent: The caller's.
        context: Its place, where that is given: by the process that ends it.

    Attributes:
        tracer: As given.
        context: The place of the call's span.
    """

    def __init__(
        self,
        tracer: Tracer,
        name: str = "",
        parent: SpanContext | None = None,
        context: SpanContext | None = None,
    ) -> None:
        self.tracer = tracer
        self.context = context or SpanContext.new(parent)
        self._name = name
        self._parent = parent
        self._began_ns = time.time_ns()
        self._spans: list[Span] = []
        self._left_out = 0
        # By how long its images waited, which is all that tells one batch of a request from another.
        self._batches: dict[float, SpanContext] = {}

    def ran_in(self, queue_seconds: float, batch: SpanContext) -> None:
        """Is told of a batch with images of the call, by any thread, before what becomes of them."""
        self._batches[queue_seconds] = batch

    def ran(self, model: str, version: int, began: float, images: Sequence[Stages]) -> None:
        """Takes down where the time of images went.

        Those that ran together make one span a stage. An image's own times are exact; those of several lie one after
        the other, as one thread sees to them, or over each other where several threads do.

        Args:
            model: Its name.
            version: Of it.
            began: When they were put into the queue, on time.monotonic.
            images: Those that have an answer.
        """
        ended_seconds = time.monotonic() - began
        batches: defaultdict[tuple[float, float], list[Stages]] = defaultdict(list)
        for image in images:
            batches[image.queue_seconds, image.inference_seconds].append(image)
        for (queue_seconds, inference_seconds), together in batches.items():
            decode = [image.decode_seconds for image in together]
            postprocess = [image.postprocess_seconds for image in together]
            others_seconds = queue_seconds + inference_seconds
            combine = sum if others_seconds + sum(decode) + sum(postprocess) <= ended_seconds else max
            batch = self._batches.get(queue_seconds)
            stages = (
                ("queue", queue_seconds),
                ("decode", combine(decode)),
                ("inference", inference_seconds),
                ("postprocess", combine(postprocess)),
            )
            attributes: dict[str, str | int] = {
                "retinue.model": model,
                "retinue.version": str(version),
                "retinue.images": len(together),
                "retinue.batch_size": together[0].batch_size,
            }
            at = began
            for stage, seconds in stages:
                link = (batch,) if batch is not None and stage == "inference" else ()
                self._add(stage, at, at + seconds, attributes, link)
                at += seconds

    def end(self, code: str, attributes: dict[str, str | int]) -> None:
        """Sends the trace.

        Args:
            code: The call's gRPC status code.
            attributes: More about the call.
        """
        if self._left_out:
            attributes["retinue.spans_left_out"] = self._left_out
        call = Span(
            self._name,
            self.context,
            self._parent,
            self._began_ns,
            max(time.time_ns(), self._began_ns),
            attributes,
            Kind.SERVER,
            failed=code in _FAILURES,
        )
        self.tracer.export([*self._spans, call])

    def _add(
        self,
        name: str,
        began: float,
        ended: float,
        attributes: dict[str, str | int],
        links: Sequence[SpanContext],
    ) -> None:
        if len(self._spans) >= _MOST_SPANS:
            self._left_out += 1
            return
        self._spans.append(
            Span(
                name,
                SpanContext.new(self.context),
                self.context,
                unix_ns(began),
                unix_ns(ended),
                attributes,
                links=links,
            )
        )


def unix_ns(monotonic_seconds: float) -> int:
    """A time on time.monotonic in nanoseconds since 1970."""
    return time.time_ns() + int((monotonic_seconds - time.monotonic()) * 1e9)
