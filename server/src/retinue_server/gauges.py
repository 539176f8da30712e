"""What there is to say of a server at this moment, read when Prometheus asks, so that it costs requests nothing."""

import platform
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from retinue.v1 import manifest_pb2 as pb

from retinue_server import __version__
from retinue_server.batching.batcher import Batcher
from retinue_server.bundle.mirror import MirrorState
from retinue_server.catalog import Catalog
from retinue_server.runtime.memory import MemoryLimit, read_devices
from retinue_server.runtime.providers import Provider
from retinue_server.tls import IdentityFiles


class ServerGauges(Collector):
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


class MemoryGauges(Collector):
    """Reads what is reserved of the memory that models may take when it is asked for."""

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit = limit

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        kind = "device" if self._limit.on_device else "process"
        most = GaugeMetricFamily(
            "retinue_memory_limit_bytes",
            "What the server and its models may take together; none where there is no limit.",
            labels=["memory"],
        )
        if self._limit.limit_bytes:
            most.add_metric([kind], self._limit.limit_bytes)
        reserved = GaugeMetricFamily(
            "retinue_memory_reserved_bytes",
            "What of the limit is taken, whether it is used already or not.",
            labels=["memory"],
        )
        reserved.add_metric([kind], self._limit.taken_bytes)
        yield from (most, reserved)


class ModelGauges(Collector):
    """Reads the gauges of the models when they are asked for."""

    def __init__(self, catalog: Callable[[], Catalog], provider: Provider) -> None:
        self._catalog = catalog
        self._provider = provider

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        labels = ["model", "version"]
        queue = GaugeMetricFamily("retinue_queue_images", "Images that wait for the engine.", labels=labels)
        capacity = GaugeMetricFamily(
            "retinue_queue_capacity_images",
            "Images that may wait; calls with more are refused.",
            labels=labels,
        )
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
            # Pipelines have none of their own.
            if isinstance(model.batcher, Batcher):
                capacity.add_metric(key, model.batcher.capacity)
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
        yield from (queue, capacity, memory, info, failures, refused, missing)


class MirrorGauges(Collector):
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
