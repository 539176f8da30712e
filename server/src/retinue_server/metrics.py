"""Every metric, with its buckets. Gauges are read when Prometheus asks, so that they cost requests nothing."""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from retinue.v1 import manifest_pb2 as pb

from retinue_server import __version__
from retinue_server.batching.tickets import Outcome
from retinue_server.bundle.mirror import MirrorState
from retinue_server.catalog import Catalog, ServedModel
from retinue_server.durations import Durations, StageDurations
from retinue_server.errors import RetinueError
from retinue_server.results import Answer
from retinue_server.runtime.memory import read_devices
from retinue_server.runtime.providers import Provider
from retinue_server.tally import Statistics, Tally
from retinue_server.tls import IdentityFiles
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


@dataclass(frozen=True, slots=True)
class _ModelMeters:
    """The label children of one model, looked up once instead of for every image."""

    decode: Durations
    queue: Durations
    inference: Durations
    postprocess: Durations
    answered: Counter
    failed: Counter
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
            "Images, by outcome: answered or failed.",
            (*model, "outcome"),
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
        self.registry.register(_ServerCollector(runtime_version, ready, identity))

    def publish_models(self, catalog: Callable[[], Catalog], provider: Provider) -> None:
        """Adds the gauges of the models, those of the catalog that is the current one whenever they are read."""
        self.registry.register(_ModelCollector(catalog, provider))

    def publish_mirror(self, state: Callable[[], MirrorState]) -> None:
        """Adds the gauges of the copy of models that are elsewhere."""
        self.registry.register(_MirrorCollector(state))

    def count_call(self, method: str, model: str, version: str, code: str, seconds: float) -> None:
        """Counts one call; `model` and `version` are of a served model or empty, never what a caller made up."""
        labels = method, model, version, code
        meters = self._call_meters.get(labels)
        if meters is None:
            tally = self._meters_of(model, int(version)).tally if model and method in _ANSWERING else None
            meters = self._requests.labels(*labels), self._request_seconds.labels(*labels), tally
            self._call_meters[labels] = meters
        requests, request_seconds, tally = meters
        requests.inc()
        request_seconds.observe(seconds)
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

    def count_images(self, model: ServedModel, outcomes: Sequence[Outcome[Answer]]) -> None:
        """Counts the images of a request and where their time went. Called by one thread only."""
        meters = self._meters_of(model.name, model.version)
        meters.queue.add(one.queue_seconds for one in outcomes if one.queue_seconds is not None)
        answers = [one.value for one in outcomes if not isinstance(one.value, RetinueError)]
        meters.decode.add(answer.decode_seconds for answer in answers)
        meters.inference.add(answer.inference_seconds for answer in answers)
        meters.postprocess.add(answer.postprocess_seconds for answer in answers)
        meters.answered.inc(len(answers))
        meters.failed.inc(len(outcomes) - len(answers))
        meters.tally.count_images(len(outcomes))

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
        for meter in (self._requests, self._request_seconds, self._images, self._batch_size):
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
                answered=self._images.labels(name, version, "answered"),
                failed=self._images.labels(name, version, "failed"),
                batch_size=self._batch_size.labels(name, version),
                tally=Tally(),
            )
            self._meters[name, version] = meters
        return meters


def _statistics(meters: _ModelMeters) -> Statistics:
    stages = {stage: getattr(meters, stage).total() for stage in _STAGES}
    tally = meters.tally
    return Statistics(tally.success, tally.fail, tally.images, tally.last_at, stages, tally.batches)


class _ServerCollector(Collector):
    """Reads the gauges of the server when they are asked for."""

    def __init__(
        self, runtime_version: str, ready: Callable[[], bool], identity: IdentityFiles | None
    ) -> None:
        self._runtime_version = runtime_version
        self._ready = ready
        self._identity = identity

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        yield from _devices()
        ready = GaugeMetricFamily("retinue_ready", "1 where the server takes requests.")
        ready.add_metric([], float(self._ready()))
        yield ready
        build = GaugeMetricFamily(
            "retinue_build_info",
            "Always 1; the versions are labels.",
            labels=["version", "onnxruntime", "python"],
        )
        build.add_metric([__version__, self._runtime_version, platform.python_version()], 1)
        yield build
        if self._identity is not None:
            expiry = GaugeMetricFamily(
                "retinue_tls_certificate_expiry_seconds",
                "When the certificate that callers are shown expires, as Unix time.",
            )
            expiry.add_metric([], self._identity.current().expires_unix_seconds)
            yield expiry


class _ModelCollector(Collector):
    """Reads the gauges of the models when they are asked for."""

    def __init__(self, catalog: Callable[[], Catalog], provider: Provider) -> None:
        self._catalog = catalog
        self._provider = provider

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        labels = ["model", "version"]
        queue = GaugeMetricFamily("retinue_queue_images", "Images that wait for the engine.", labels=labels)
        memory = GaugeMetricFamily(
            "retinue_model_memory_bytes",
            "What the model takes at most: weights, ONNX Runtime's arena (on a GPU: of the device), and buffers.",
            labels=[*labels, "part"],
        )
        info = GaugeMetricFamily(
            "retinue_model_info",
            "Always 1; what the model is and what runs it are labels.",
            labels=[*labels, "task", "precision", "provider", "fallback"],
        )
        catalog = self._catalog()
        for model in catalog.models:
            key = [model.name, str(model.version)]
            queue.add_metric(key, len(model.batcher))
            for part, size_bytes in model.memory.parts():
                memory.add_metric([*key, part], size_bytes)
            precision = pb.Precision.Name(model.manifest.precision).removeprefix("PRECISION_").lower()
            fallback = str(bool(self._provider.fallback_reason)).lower()
            info.add_metric([*key, str(model.task), precision, self._provider.name, fallback], 1)
        failures = GaugeMetricFamily(
            "retinue_model_load_failed", "Always 1; bundles that were found and refused.", labels=labels
        )
        for name, version in catalog.failures:
            failures.add_metric([name, str(version)], 1)
        refused = GaugeMetricFamily(
            "retinue_serving_policy_failed",
            "Always 1; models whose serving.json does not hold, or waits for a version that it names.",
            labels=["model"],
        )
        for name in catalog.policy_failures:
            refused.add_metric([name], 1)
        missing = GaugeMetricFamily(
            "retinue_serving_version_missing",
            "Always 1; versions that labels, split or shadow name and that are not served.",
            labels=labels,
        )
        for name, version in catalog.missing():
            missing.add_metric([name, str(version)], 1)
        yield from (queue, memory, info, failures, refused, missing)


class _MirrorCollector(Collector):
    """Reads the gauges of a mirror when they are asked for."""

    def __init__(self, state: Callable[[], MirrorState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        state = self._state()
        failed = GaugeMetricFamily(
            "retinue_mirror_failed", "1 where the models' address could not be listed at the latest look."
        )
        failed.add_metric([], float(bool(state.trouble)))
        yield failed
        if state.age_seconds is not None:
            age = GaugeMetricFamily("retinue_mirror_age_seconds", "Since it was listed last.")
            age.add_metric([], state.age_seconds)
            yield age
        refused = GaugeMetricFamily(
            "retinue_mirror_refused",
            "Always 1; versions that could not be copied, 0 where it is what lies beside them.",
            labels=["model", "version"],
        )
        for name, version in state.refused:
            refused.add_metric([name, str(version)], 1)
        yield refused


def _devices() -> Iterator[Metric]:
    used = GaugeMetricFamily("retinue_gpu_memory_used_bytes", "Device memory in use, by all.", labels=["gpu"])
    total = GaugeMetricFamily("retinue_gpu_memory_total_bytes", "Device memory there is.", labels=["gpu"])
    for device in read_devices():
        used.add_metric([str(device.device)], device.used_bytes)
        total.add_metric([str(device.device)], device.total_bytes)
    yield from (used, total)
