"""Each alert fires for a real fault of a real server, in a real Prometheus, with labels that say where."""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import yaml
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, living_bundles, odd_bundles
from tests.calls import connected, flat
from tests.certificates import Authority
from tests.faults.model_health import Illness
from tests.metrics_page import MetricsPage
from tests.object_store import ObjectStore, object_store
from tests.prometheus_process import PrometheusProcess, running_prometheus, wait_for
from tests.server_process import ROOT, ServerProcess, running_server
from tests.system_packages import require

_ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
# There is no GPU here; alerts_test.yml says when they fire.
_OF_GPUS = {"RetinueGpuUnused", "RetinueGpuMemoryNearFull"}
_QUICK = ("--provider", "cpu", "--tune", "off", "--instances", "1")
# What is set aside for requests would be most of a limit, and is never resident here.
_SMALL = ("--max-bytes-in-flight", "1MB", "--max-decoded-bytes-in-flight", "1MB")
_SLOW, _FAILING = "slow-classifier", "failing-classifier"
_HANGING, _AILING = "hanging-classifier", "ailing"
_PAUSE_SECONDS = 0.05
_QUEUE_IMAGES = 40
_CALLERS = 6
# Python reads it before anything else. As no request can, it ends a thread that runs a batch.
_DYING = """
from retinue_server.pipeline import Pipeline

def run(self, items, stop, *, alone=False):
    raise SystemExit

Pipeline.run = run
"""


@dataclass(frozen=True)
class Servers:
    """Servers of which each has a fault, or gets one.

    Attributes:
        busy: It has a slow model with a short queue, and one that fails on white images.
        refusing: Its certificate expires, its memory is nearly all taken, and it refuses a bundle and a policy.
        mirroring: Its models are elsewhere, and one of them is too large. Of another a candidate gets copies, which
            says otherwise.
        ailing: One of its models hangs on white images, and another has the illness.
        illness: It begins when a test says so.
        dying: Its engine's threads end with their first batch.
        store: Where the mirrored models are.
        prometheus: It scrapes all of them.
    """

    busy: ServerProcess
    refusing: ServerProcess
    mirroring: ServerProcess
    ailing: ServerProcess
    illness: Illness
    dying: ServerProcess
    store: ObjectStore
    prometheus: PrometheusProcess

    def wait_for(self, alert: str, server: ServerProcess, severity: str, **labels: str) -> dict[str, Any]:
        """Waits until an alert fires on a server, and holds it against these labels; returns it."""
        instance = urlsplit(server.http_url).netloc

        def firing() -> list[dict[str, Any]]:
            return [
                one["metric"]
                for one in self.prometheus.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')
                if one["metric"]["instance"] == instance and labels.items() <= one["metric"].items()
            ]

        (found, *_) = wait_for(firing, f"{alert} to fire on {instance} with {labels}")
        assert found["severity"] == severity
        return found


@contextmanager
def _busy(folder: Path) -> Iterator[ServerProcess]:
    odd_bundles.slow_classifier(folder)
    odd_bundles.failing_classifier(folder)
    with running_server(folder, *_QUICK, *_SMALL, "--max-queue-images", str(_QUEUE_IMAGES)) as server:
        yield server


@contextmanager
def _refusing(folder: Path, memory_limit_bytes: int) -> Iterator[ServerProcess]:
    models = folder / "models"
    models.mkdir()
    colour_bundles.detector(models)
    colour_bundles.rewrite_manifest(colour_bundles.classifier(models, "torn"), sha256="0" * 64)
    colour_bundles.classifier(models, "mistyped")
    (models / "mistyped" / "serving.json").write_text('{"latest": "newest"}')
    certificate, key = Authority().sign(expires_days=3).write(folder)
    flags = (
        *("--tls-certificate", str(certificate), "--tls-key", str(key)),
        *("--memory-limit", str(memory_limit_bytes)),
    )
    with running_server(models, *_QUICK, *_SMALL, *flags) as server:
        yield server


@contextmanager
def _mirroring(folder: Path, store: ObjectStore) -> Iterator[ServerProcess]:
    aside = folder / "aside"
    aside.mkdir()
    for version in (1, 2):
        bundle = living_bundles.put(aside, "drifting", version, inverted=version == 2)
        store.upload(bundle, f"served/drifting/{version}")
    policy = {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}}
    store.put("served/drifting/serving.json", json.dumps(policy).encode())
    store.put("served/huge/1/manifest.json", b"{}")
    store.put("served/huge/1/model.onnx", bytes(2_000_000))
    flags = ("--mirror-limit", "1MB", "--model-control", "watch")
    environment = {**store.environment, "RETINUE_CACHE_FOLDER": str(folder / "cache")}
    with running_server("s3://models/served", *_QUICK, *flags, environment=environment) as server:
        yield server


@contextmanager
def _ailing(folder: Path, illness: Illness) -> Iterator[ServerProcess]:
    models = folder / "models"
    models.mkdir()
    odd_bundles.hanging_classifier(models, _HANGING)
    colour_bundles.classifier(models, _AILING)
    environment = {"AILING": str(illness.file)}
    flags = ("--batch-timeout-seconds", "1")
    with running_server(
        models, *_QUICK, *flags, environment=environment, module="tests.ailing_server"
    ) as server:
        yield server


@contextmanager
def _dying(folder: Path) -> Iterator[ServerProcess]:
    models = folder / "models"
    models.mkdir()
    colour_bundles.classifier(models)
    (folder / "sitecustomize.py").write_text(_DYING)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with running_server(models, *_QUICK, environment={"PYTHONPATH": path}) as server:
        yield server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    require("prometheus")

    def folder() -> Path:
        return tmp_path_factory.mktemp("alerts")

    with _busy(folder()) as busy, object_store("models") as store:
        illness = Illness(folder() / "illness")
        # Enough for its models, and less than a process takes that has answered something.
        reserved_bytes = MetricsPage(busy.http_url).value("retinue_memory_reserved_bytes")
        with (
            _refusing(folder(), int(1.05 * reserved_bytes)) as refusing,
            _mirroring(folder(), store) as mirroring,
            _ailing(folder(), illness) as ailing,
            _dying(folder()) as dying,
        ):
            refusing.http_url = refusing.http_url.replace("http:", "https:")
            urls = [one.http_url for one in (busy, refusing, mirroring, ailing, dying)]
            with running_prometheus(urls[0], folder(), *urls[1:], quick=True) as prometheus:
                yield Servers(busy, refusing, mirroring, ailing, illness, dying, store, prometheus)


def test_what_a_server_refused_or_will_lose_is_told(servers: Servers) -> None:
    server = servers.refusing
    servers.wait_for("RetinueModelNotLoaded", server, "warning", model="torn", version="1")
    servers.wait_for("RetinueServingPolicyRefused", server, "warning", model="mistyped")
    servers.wait_for("RetinueCertificateExpires", server, "warning")
    servers.wait_for("RetinueMemoryNearLimit", server, "warning")


def test_models_elsewhere_that_cannot_be_copied_or_listed_are_told(servers: Servers) -> None:
    servers.wait_for("RetinueModelNotCopied", servers.mirroring, "warning", model="huge", version="1")
    servers.store.stop()
    servers.wait_for("RetinueModelsUnreachable", servers.mirroring, "warning")


def test_a_candidate_that_says_otherwise_is_told(servers: Servers) -> None:
    with _asking(servers.mirroring, pb.ClassifyRequest(model="drifting", images=[flat(255, 0, 0)])):
        servers.wait_for(
            "RetinueParityDrift", servers.mirroring, "warning", model="drifting", version="1", candidate="2"
        )


def test_a_model_that_fails_is_told(servers: Servers) -> None:
    with _asking(servers.busy, pb.ClassifyRequest(model=_FAILING, images=[flat(255)])):
        servers.wait_for("RetinueErrors", servers.busy, "critical", model=_FAILING)


def test_a_model_that_hangs_is_told(servers: Servers) -> None:
    with connected(servers.ailing.grpc_address) as connection, pytest.raises(grpc.RpcError):
        connection.classify(flat(255), model=_HANGING)
    servers.wait_for("RetinueModelHangs", servers.ailing, "warning", model=_HANGING, version="1")


def test_a_model_that_cannot_be_opened_anew_is_told(servers: Servers) -> None:
    servers.illness.begin(_AILING, "the weights are gone")
    with _asking(servers.ailing, pb.ClassifyRequest(model=_AILING, images=[flat(255, 0, 0)])):
        servers.wait_for("RetinueModelUnready", servers.ailing, "critical", model=_AILING, version="1")


def test_more_than_can_be_computed_is_told(servers: Servers) -> None:
    # A batch takes some tenths of a second, and all together are more than the queue holds.
    request = pb.ClassifyRequest(model=_SLOW, images=[flat(20)] * (_QUEUE_IMAGES // 4))
    with _asking(servers.busy, request, callers=_CALLERS):
        servers.wait_for("RetinueOverloaded", servers.busy, "warning", model=_SLOW)
        servers.wait_for("RetinueQueueLong", servers.busy, "warning", model=_SLOW, version="1")


def test_a_model_that_is_slower_than_the_objective_is_told(servers: Servers) -> None:
    with connected(servers.busy.grpc_address) as connection:
        batch = connection.get_model(_SLOW).execution.max_batch_size
    # Two batches, of about a second each.
    request = pb.ClassifyRequest(model=_SLOW, images=[flat(255)] * min(2 * batch, _QUEUE_IMAGES))
    with _asking(servers.busy, request):
        servers.wait_for("RetinueSlow", servers.busy, "warning", model=_SLOW)


def test_a_server_whose_engine_dies_and_then_itself_is_told(servers: Servers) -> None:
    server = servers.dying
    with connected(server.grpc_address) as connection, pytest.raises(grpc.RpcError):
        connection.classify(flat(255, 0, 0))
    servers.wait_for("RetinueEngineUnhealthy", server, "critical", pool="engine")
    servers.wait_for("RetinueNotReady", server, "critical")
    server.terminate()
    servers.wait_for("RetinueDown", server, "critical")


def test_every_alert_is_made_to_fire_here_or_needs_a_gpu() -> None:
    made = re.findall(r'wait_for\(\s*"(Retinue\w+)"', Path(__file__).read_text())
    assert set(made) == _ALERTS - _OF_GPUS


@contextmanager
def _asking(server: ServerProcess, request: pb.ClassifyRequest, callers: int = 1) -> Iterator[None]:
    """Has callers send the request again and again, whatever the answer, each over a connection of its own."""
    over = threading.Event()

    def ask() -> None:
        with connected(server.grpc_address) as connection:
            while not over.wait(_PAUSE_SECONDS):
                with suppress(grpc.RpcError):
                    connection.vision.Classify(request, timeout=60)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
