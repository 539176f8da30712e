"""What is counted of calls, images and batches, with its buckets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.batching.usage import Usage
from retinue_server.bundle.mirror import MirrorState
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.durations import Durations, StageDurations
from retinue_server.errors import RetinueError
from retinue_server.gauges import MemoryGauges, MirrorGauges, ModelGauges, ServerGauges
from retinue_server.recovery_metrics import RecoveryCollector
from retinue_server.results import Answer
from retinue_server.runtime.memory import MemoryLimit
from retinue_server.runtime.providers import Provider
from retinue_server.saturation import InFlight, InFlightCollector, PoolCollector
from retinue_server.tally import Statistics, Tally
from retinue_server.tls import IdentityFiles
from retinue_server.tracing.counts import SpanCounts
from retinue_server.tracing.tracer import Tracer
from retinue_server.triton_metrics import TritonCollector

# The time at which each counter began: a third of all lines, and Prometheus finds resets without them.
disable_created_metrics()  # type: ignore[no-untyped-call]

# From a cached tiny network to a request that waited long in a full queue: each bucket about twice the one before.
_SECONDS = (
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.512,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
_STAGE_SECONDS = (0.00005, 0.0001, *_SECONDS)
_STAGES = ("decode", "queue", "inference", "postprocess")
_AGREEMENTS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
# The methods that answer with what a model says of images.
_ANSWERING = frozenset({"Classify", "Detect", "Segment", "ModelInfer", "ModelStreamInfer"})
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_PRIORITIES = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}


class ImageOutcome(StrEnum):
    """What becomes of an image that was received for a model: exactly one of these."""

    ANSWERED = "answered"
    # It could not be read, or the engine failed on it.
    FAILED = "failed"
    # It was not run: there was no room, the request asked for what there is not, or the server stops.
    REFUSED = "refused"
    # Nobody wants the answer any more: the caller left, or the deadline passed.
    CANCELLED = "cancelled"

    @classmethod
    def of_code(cls, code: str) -> "ImageOutcome":
        """That of all images of a call that ended with a gRPC status other than OK."""
        if code in ("CANCELLED", "DEADLINE_EXCEEDED"):
            return cls.CANCELLED
        return cls.FAILED if code in ("INTERNAL", "UNKNOWN") else cls.REFUSED


@dataclass(frozen=True, slots=True)
class _ModelMeters:
    """The label children of one model, looked up once instead of for every image."""

    decode: Durations
    queue: Durations
    inference: Durations
    postprocess: Durations
    received: Mapping[Priority, Counter]
    images: Mapping[tuple[Priority, ImageOutcome], Counter]
    batch_size: Histogram
    tally: Tally


class Metrics:
    """Counts what happens. One object a server, so that tests do not share any.

    Args:
        triton_names: Whether what was counted is there under Triton's names, too.

    Attributes:
        registry: What `/metrics` prints.
    """

    def __init__(self, *, triton_names: bool = False) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        call = ("method", "model", "version", "code")
        model = ("model", "version")
        self._requests = Counter(
            "retinue_requests", "Calls answered, by gRPC status code.", call, registry=self.registry
        )
        self._token_requests = Counter(
            "retinue_token_requests",
            "Calls with a token, by its name in the file and gRPC status code.",
            ("token", "code"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "retinue_request_duration_seconds",
            "From a call's arrival to its answer.",
            call,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stage_seconds = StageDurations(
            "retinue_stage_duration_seconds",
            "Where an image's time went: decode, queue, inference (of its whole batch), postprocess.",
            _STAGE_SECONDS,
        )
        self.registry.register(self._stage_seconds)
        self._images = Counter(
            "retinue_images",
            "Images, by what became of them: answered, failed, refused or cancelled.",
            (*model, "priority", "outcome"),
            registry=self.registry,
        )
        self._received = Counter(
            "retinue_images_received",
            "Images of requests for a served model. What is not in retinue_images_total yet is being answered.",
            (*model, "priority"),
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "retinue_batch_size",
            "Images that ran together.",
            model,
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        copied = (*model, "candidate")
        self._shadow_images = Counter(
            "retinue_shadow_images",
            "Copies of images that a version answered, by what became of them: compared, dropped or failed.",
            (*copied, "outcome"),
            registry=self.registry,
        )
        self._shadow_agreement = Histogram(
            "retinue_shadow_agreement",
            "How far the candidate's answer agrees with the one that was given, of each image that was compared.",
            copied,
            buckets=_AGREEMENTS,
            registry=self.registry,
        )
        self._meters: dict[tuple[str, int], _ModelMeters] = {}
        self._call_meters: dict[tuple[str, str, str, str], tuple[Counter, Histogram, Tally | None]] = {}
        if triton_names:
            self.registry.register(
                TritonCollector(
                    lambda: [(*key, _statistics(meters)) for key, meters in list(self._meters.items())]
                )
            )

    def publish_server(
        self, runtime_version: str, ready: Callable[[], bool], identity: IdentityFiles | None = None
    ) -> None:
        """Adds the gauges of the server itself, which are there before its models are."""
        self.registry.register(ServerGauges(runtime_version, ready, identity))

    def publish_models(self, catalog: Callable[[], Catalog], provider: Provider) -> None:
        """Adds the gauges of the models, those of the catalog that is the current one whenever they are read."""
        self.registry.register(ModelGauges(catalog, provider))
        self.registry.register(RecoveryCollector(catalog))

    def publish_mirror(self, state: Callable[[], MirrorState]) -> None:
        """Adds the gauges of the copy of models that are elsewhere."""
        self.registry.register(MirrorGauges(state))

    def publish_memory(self, limit: MemoryLimit) -> None:
        """Adds what models may take of memory, and what is taken."""
        self.registry.register(MemoryGauges(limit))

    def publish_pools(self, pools: Mapping[str, Callable[[], Usage]]) -> None:
        """Adds what pools of threads do, by their names."""
        self.registry.register(PoolCollector(pools))

    def publish_calls(self, in_flight: Callable[[], InFlight] | None) -> None:
        """Adds what the calls take that are being answered; None where other processes have them."""
        self.registry.register(InFlightCollector(in_flight))

    def publish_traces(self, tracer: Tracer | None) -> None:
        """Adds how many spans there were, where calls are traced."""
        if tracer is not None:
            self.registry.register(SpanCounts(tracer.counts))

    def count_call(
        self, method: str, model: str, version: str, code: str, seconds: float, trace_id: str = ""
    ) -> None:
        """Counts one call; `model` and `version` are of a served model or empty, never what a caller made up."""
        labels = method, model, version, code
        meters = self._call_meters.get(labels)
        if meters is None:
            tally = self._meters_of(model, int(version)).tally if model and method in _ANSWERING else None
            meters = self._requests.labels(*labels), self._request_seconds.labels(*labels), tally
            self._call_meters[labels] = meters
        requests, request_seconds, tally = meters
        requests.inc()
        request_seconds.observe(seconds, {"trace_id": trace_id} if trace_id else None)
        if tally is not None:
            tally.count_request(seconds, answered=code == "OK")

    def count_token(self, name: str, code: str) -> None:
        """Counts one call of whoever has the token of that name."""
        self._token_requests.labels(name, code).inc()

    def batch_counter(self, model: str, version: int) -> Callable[[int, float], None]:
        """Begins to count for a model; returns what counts a batch by its size and the seconds it took.

        A batch may be counted after its calls are: once the model is forgotten, that leaves nothing.
        """
        meters = self._meters_of(model, version)

        def count(size: int, seconds: float) -> None:
            meters.batch_size.observe(size)
            meters.tally.count_batch(size, seconds)

        return count

    def receive_images(self, name: str, version: int, priority: Priority, count: int) -> None:
        """Counts images whose outcome is counted later."""
        self._meters_of(name, version).received[priority].inc(count)

    def count_images(
        self,
        model: ServedModel,
        outcomes: Sequence[Outcome[Answer]],
        priority: Priority = Priority.NORMAL,
        lost: RetinueError | None = None,
        trace_id: str = "",
    ) -> None:
        """Counts what became of the images of a request, and where their time went.

        Args:
            model: Whose they are.
            outcomes: Of each image.
            priority: Of the request.
            lost: Why the request has no answer, though some of its images may have one.
            trace_id: Of its trace, where it has one.
        """
        meters = self._meters_of(model.name, model.version)
        meters.queue.add((one.queue_seconds for one in outcomes if one.queue_seconds is not None), trace_id)
        answers = [one.value for one in outcomes if not isinstance(one.value, RetinueError)]
        meters.decode.add((answer.decode_seconds for answer in answers), trace_id)
        meters.inference.add((answer.inference_seconds for answer in answers), trace_id)
        meters.postprocess.add((answer.postprocess_seconds for answer in answers), trace_id)
        failed = len(outcomes) - len(answers)
        if lost is not None:
            meters.images[priority, ImageOutcome.of_code(lost.code.name)].inc(len(outcomes))
        else:
            meters.images[priority, ImageOutcome.ANSWERED].inc(len(answers))
            if failed:
                meters.images[priority, ImageOutcome.FAILED].inc(failed)
        meters.tally.count_images(len(outcomes))

    def count_lost_images(self, name: str, version: int, priority: Priority, code: str, count: int) -> None:
        """Counts images of a request that ended without an outcome of each.

        Args:
            name: Of the model whose they are.
            version: Of it.
            priority: Of the request.
            code: The gRPC status that the request ended with.
            count: Of the images.
        """
        self._meters_of(name, version).images[priority, ImageOutcome.of_code(code)].inc(count)

    def count_shadow(self, model: ServedModel, candidate: ServedModel, outcome: str, count: int) -> None:
        """Counts copies of images that `model` answered by what became of them: compared, dropped or failed."""
        if count:
            labels = model.name, str(model.version), str(candidate.version), outcome
            self._shadow_images.labels(*labels).inc(count)

    def count_agreements(
        self, model: ServedModel, candidate: ServedModel, agreements: Sequence[float]
    ) -> None:
        """Counts copies that were compared, and how far the answers agree, each in [0, 1]."""
        self.count_shadow(model, candidate, "compared", len(agreements))
        for agreement in agreements:
            self._shadow_agreement.labels(model.name, str(model.version), str(candidate.version)).observe(
                agreement
            )

    def statistics(self, model: ServedModel) -> Statistics:
        """What was counted of a model since it was loaded."""
        return _statistics(self._meters_of(model.name, model.version))

    def all_statistics(self) -> dict[tuple[str, int], Statistics]:
        """Those of all models, by name and version."""
        # A model may be loaded meanwhile, in another thread.
        return {key: _statistics(meters) for key, meters in list(self._meters.items())}

    def forget_model(self, name: str, version: int) -> None:
        """Drops what was counted of a model that is gone."""
        labels = {"model": name, "version": str(version)}
        for meter in (
            self._requests,
            self._request_seconds,
            self._images,
            self._received,
            self._batch_size,
        ):
            meter.remove_by_labels(labels)
        for meter in (self._shadow_images, self._shadow_agreement):
            meter.remove_by_labels(labels)
            meter.remove_by_labels({"model": name, "candidate": str(version)})
        self._stage_seconds.forget(name, version)
        self._meters.pop((name, version), None)
        for key in [key for key in self._call_meters if key[1:3] == (name, str(version))]:
            del self._call_meters[key]

    def _meters_of(self, name: str, version: int) -> _ModelMeters:
        meters = self._meters.get((name, version))
        if meters is None:
            stages = {stage: self._stage_seconds.of(stage, name, version) for stage in _STAGES}
            meters = _ModelMeters(
                **stages,
                received={
                    priority: self._received.labels(name, version, label)
                    for priority, label in _PRIORITIES.items()
                },
                images={
                    (priority, outcome): self._images.labels(name, version, label, outcome)
                    for priority, label in _PRIORITIES.items()
                    for outcome in ImageOutcome
                },
                batch_size=self._batch_size.labels(name, version),
                tally=Tally(),
            )
            self._meters[name, version] = meters
        return meters


def _statistics(meters: _ModelMeters) -> Statistics:
    stages = {stage: getattr(meters, stage).total() for stage in _STAGES}
    tally = meters.tally
    return Statistics(tally.success, tally.fail, tally.images, tally.last_at, stages, tally.batches)
