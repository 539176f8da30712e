from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from retinue.v1 import serving_pb2
from tests.unit.server.served import IdleQueue, served_model

from retinue_server import gauges
from retinue_server.batching.tickets import Outcome
from retinue_server.bundle.mirror import MirrorState
from retinue_server.catalog import Catalog
from retinue_server.errors import BundleError, ImageError
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, Task
from retinue_server.runtime import memory
from retinue_server.runtime.memory import DeviceMemory
from retinue_server.runtime.providers import CPU, CUDA, Provider

ON_CPU = Provider(CPU, "auto", f"{CUDA}: no driver", ((CPU, {}),))
ON_GPU = Provider(CUDA, "cuda", "", ((CUDA, {}), (CPU, {})))


def published(provider: Provider = ON_CPU) -> tuple[Metrics, Catalog]:
    catalog = Catalog(
        [served_model("cats", 2, batcher=IdleQueue(5)), served_model("boxes", 1, Task.DETECT)],
        {("birds", 3): BundleError("broken.")},
    )
    metrics = Metrics()
    metrics.publish_server("1.31.1", lambda: True)
    metrics.publish_models(lambda: catalog, provider)
    return metrics, catalog


def lines(metrics: Metrics) -> set[str]:
    return set(generate_latest(metrics.registry).decode().splitlines())


def test_gauges_are_read_when_they_are_asked_for() -> None:
    metrics, _ = published()
    page = lines(metrics)
    assert 'retinue_queue_images{model="cats",version="2"} 5.0' in page
    assert 'retinue_queue_images{model="boxes",version="1"} 0.0' in page
    for part, size in (("weights", 700), ("arena", 200), ("buffers", 100)):
        assert f'retinue_model_memory_bytes{{model="cats",part="{part}",version="2"}} {size}.0' in page
    assert 'retinue_model_load_failed{model="birds",version="3"} 1.0' in page
    assert "retinue_ready 1.0" in page


@pytest.mark.parametrize(("provider", "fallback"), [(ON_CPU, "true"), (ON_GPU, "false")])
def test_a_model_tells_its_provider_and_whether_it_is_a_fallback(provider: Provider, fallback: str) -> None:
    metrics, _ = published(provider)
    assert (
        f'retinue_model_info{{fallback="{fallback}",model="boxes",precision="fp16_weights",'
        f'provider="{provider.name}",task="detect",version="1"}} 1.0'
    ) in lines(metrics)


def test_gpus_are_listed_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, _ = published()
    assert not any(line.startswith("retinue_gpu_memory_used_bytes{") for line in lines(metrics))
    monkeypatch.setattr(gauges, "read_devices", lambda: [DeviceMemory(0, 10, 80), DeviceMemory(1, 2, 40)])
    page = lines(metrics)
    assert 'retinue_gpu_memory_used_bytes{gpu="0"} 10.0' in page
    assert 'retinue_gpu_memory_total_bytes{gpu="1"} 40.0' in page


def test_an_answered_image_is_counted_by_stage() -> None:
    metrics, catalog = published()
    answer = Answer(None, 0.003, 0.01, 0.0004, 2)  # type: ignore[arg-type]
    metrics.count_images(catalog.get("cats"), [Outcome(answer, 0.06)])
    page = lines(metrics)
    for stage, seconds in (("decode", 0.003), ("queue", 0.06), ("inference", 0.01), ("postprocess", 0.0004)):
        labels = f'model="cats",stage="{stage}",version="2"'
        assert f"retinue_stage_duration_seconds_sum{{{labels}}} {seconds}" in page
        assert f"retinue_stage_duration_seconds_count{{{labels}}} 1.0" in page
    assert 'retinue_images_total{model="cats",outcome="answered",priority="normal",version="2"} 1.0' in page


def test_a_failed_image_is_counted_as_failed() -> None:
    metrics, catalog = published()
    metrics.count_images(catalog.get("cats"), [Outcome(ImageError("cut off."), 0.06)])
    page = lines(metrics)
    assert 'retinue_images_total{model="cats",outcome="failed",priority="normal",version="2"} 1.0' in page
    assert 'retinue_stage_duration_seconds_count{model="cats",stage="decode",version="2"} 0.0' in page


def test_batches_are_counted_by_size() -> None:
    metrics, _ = published()
    for size in (1, 3, 4, 200):
        metrics.batch_counter("cats", 2)(size, 0.1)
    page = lines(metrics)
    for bound, count in (("1.0", 1), ("2.0", 1), ("4.0", 3), ("128.0", 3), ("+Inf", 4)):
        assert f'retinue_batch_size_bucket{{le="{bound}",model="cats",version="2"}} {count}.0' in page
    assert 'retinue_batch_size_sum{model="cats",version="2"} 208.0' in page


class FakeNvml:
    """Stands for NVIDIA's management library."""

    class NVMLError(Exception):
        """What it raises."""

    def __init__(self, *memories: tuple[int, int]) -> None:
        self._memories = memories
        self.open = False

    def nvmlInit(self) -> None:
        if not self._memories:
            raise self.NVMLError("no driver")
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self._memories)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        used, total = self._memories[handle]
        return SimpleNamespace(used=used, total=total)


def test_device_memory_is_read_and_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml((10, 80), (2, 40))
    monkeypatch.setattr(memory, "pynvml", nvml)
    assert memory.read_devices() == [DeviceMemory(0, 10, 80), DeviceMemory(1, 2, 40)]
    assert memory.device_memory_used_bytes() == 12
    assert not nvml.open


@pytest.mark.parametrize("library", [None, FakeNvml()])
def test_a_machine_without_a_gpu_has_no_devices(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "pynvml", library)
    assert memory.read_devices() == []
    assert memory.device_memory_used_bytes() == 0


def test_the_server_is_there_before_its_models() -> None:
    metrics = Metrics()
    identity: Any = SimpleNamespace(current=lambda: SimpleNamespace(expires_unix_seconds=1.8e9))
    metrics.publish_server("1.31.1", lambda: False, identity)
    page = generate_latest(metrics.registry).decode()
    assert "retinue_ready 0.0" in page
    assert "retinue_tls_certificate_expiry_seconds 1.8e+09" in page
    assert "retinue_build_info{" in page


def test_an_image_that_never_queued_says_nothing_of_the_queue() -> None:
    metrics, catalog = published()
    metrics.count_images(catalog.get("cats"), [Outcome(ImageError("no image."), None)])
    page = generate_latest(metrics.registry).decode()
    assert 'retinue_stage_duration_seconds_count{model="cats",stage="queue",version="2"} 0.0' in page


def test_gauges_are_of_the_models_that_are_served_when_they_are_read() -> None:
    metrics = Metrics()
    catalogs = [Catalog([served_model("cats", 2)], {}), Catalog([], {("birds", 3): BundleError("broken.")})]
    metrics.publish_models(lambda: catalogs[0], ON_CPU)
    assert 'retinue_queue_images{model="cats",version="2"} 0.0' in lines(metrics)
    del catalogs[0]
    page = lines(metrics)
    assert not any("cats" in line for line in page)
    assert 'retinue_model_load_failed{model="birds",version="3"} 1.0' in page


def test_what_a_serving_policy_lacks_is_told() -> None:
    policy = serving_pb2.ServingPolicy(labels={"stable": 2, "canary": 3})
    failures = {"dogs": BundleError("serving.json: field `latest` must be at least 1.")}
    catalog = Catalog([served_model("cats", 2), served_model("dogs")], {}, {"cats": policy}, failures)
    metrics = Metrics()
    metrics.publish_models(lambda: catalog, ON_CPU)
    page = lines(metrics)
    assert 'retinue_serving_policy_failed{model="dogs"} 1.0' in page
    assert 'retinue_serving_version_missing{model="cats",version="3"} 1.0' in page
    assert not any(line.startswith('retinue_serving_policy_failed{model="cats"') for line in page)


def test_a_batch_that_is_counted_late_brings_no_model_back() -> None:
    metrics = Metrics()
    count_batch = metrics.batch_counter("cats", 2)
    count_batch(1, 0.1)
    assert any("cats" in line for line in lines(metrics))
    metrics.forget_model("cats", 2)
    count_batch(1, 0.1)
    assert not any("cats" in line for line in lines(metrics))


def test_a_mirror_is_told_of_where_models_lie_elsewhere() -> None:
    metrics = Metrics()
    state = MirrorState("", None, {})
    metrics.publish_mirror(lambda: state)
    page = generate_latest(metrics.registry).decode()
    assert "retinue_mirror_failed 0.0" in page
    assert "retinue_mirror_age_seconds" not in page
    state = MirrorState("no route.", 7.5, {("birds", 3): "it is too large."})
    page = generate_latest(metrics.registry).decode()
    assert "retinue_mirror_failed 1.0" in page
    assert "retinue_mirror_age_seconds 7.5" in page
    assert 'retinue_mirror_refused{model="birds",version="3"} 1.0' in page
