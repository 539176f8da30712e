"""A model that hangs costs the batch that hangs, and nobody else anything."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests import colour_bundles, odd_bundles
from tests.calls import Connection, connected, flat, refused
from tests.faults.model_health import SERVING, assert_sums_up, health, label, others_served
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_HANGS = flat(255)
# The drain, what the engine waits for its threads, and what front-ends wait for answers.
_LONGEST_STOP_SECONDS = 25
_QUICK = ("--provider", "cpu", "--instances", "2")


def _bundles(models: Path) -> Path:
    colour_bundles.classifier(models)
    odd_bundles.hanging_classifier(models, "looping")
    odd_bundles.hanging_classifier(models, "stuck", in_one_node=True)
    return models


@pytest.fixture(scope="module", params=["0", "2"], ids=["one process", "two workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    models = _bundles(tmp_path_factory.mktemp("hanging"))
    arguments = (*_QUICK, "--batch-timeout-seconds", "1", "--workers", request.param)
    with running_server(models, *arguments) as server:
        yield server
        assert label_on_new_connection(server) == "red"
        assert server.terminate() == 0
        assert [event for event in server.events if "exception" in event] == []


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


def label_on_new_connection(server: ServerProcess) -> str:
    with connected(server.grpc_address) as connection:
        return label(connection, "colour-classifier")


def test_a_loop_without_end_is_stopped_and_its_thread_goes_on(
    server: ServerProcess, connection: Connection
) -> None:
    with others_served(server):
        refusal = refused(lambda: connection.classify(_HANGS, model="looping"))
        assert (refusal.code, refusal.reason) == ("INTERNAL", "MODEL_HUNG")
        assert label(connection, "looping") == "red"
    page = MetricsPage(server.http_url)
    assert page.value("retinue_hung_batches_total", model="looping") == 1
    assert page.value("retinue_lost_threads", model="looping") == 0
    assert page.value("retinue_model_rebuilds_total", model="looping", outcome="done") == 0
    assert_sums_up(server, "looping", answered=1, failed=1)


def test_an_operator_that_cannot_be_stopped_costs_a_thread_for_as_long_as_it_takes(
    server: ServerProcess, connection: Connection
) -> None:
    def metric(name: str, **labels: str) -> float:
        return MetricsPage(server.http_url).value(name, model="stuck", **labels)

    with others_served(server):
        refusal = refused(lambda: connection.classify(_HANGS, model="stuck"))
        assert (refusal.code, refusal.reason) == ("INTERNAL", "MODEL_HUNG")
        assert metric("retinue_lost_threads") == 1
        wait_until(lambda: metric("retinue_model_ready") == 1, "the model to be opened anew")
        assert label(connection, "stuck") == "red"
        assert metric("retinue_model_rebuilds_total", outcome="done") == 1
        # The session that hangs is there beside the one that answers.
        memory = MetricsPage(server.http_url).total("retinue_model_memory_bytes", model="stuck")
        assert metric("retinue_lost_memory_bytes") == memory
        wait_until(
            lambda: metric("retinue_lost_threads") == 0, "the thread to come back", timeout_seconds=120
        )
    wait_until(lambda: metric("retinue_lost_memory_bytes") == 0, "the memory to be given back")
    wait_until(lambda: health(connection, "stuck") == SERVING, "health to say so")
    assert httpx.get(f"{server.http_url}/readyz").status_code == 200
    assert httpx.get(f"{server.http_url}/livez").status_code == 200
    assert_sums_up(server, "stuck", answered=1, failed=1)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_batch_that_hangs_does_not_keep_the_server_from_ending(tmp_path: Path, workers: str) -> None:
    arguments = (*_QUICK, "--batch-timeout-seconds", "0", "--drain-seconds", "0.5", "--workers", workers)
    with (
        running_server(_bundles(tmp_path), *arguments) as server,
        connected(server.grpc_address) as connection,
    ):
        told: list[str] = []
        calling = threading.Thread(
            target=lambda: told.append(refused(lambda: connection.classify(_HANGS, model="looping")).code)
        )
        idle_seconds = cpu_seconds(server)
        calling.start()
        wait_until(lambda: cpu_seconds(server) > idle_seconds + 0.5, "the loop to go round")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < _LONGEST_STOP_SECONDS
        calling.join()
        assert len(told) == 1


def cpu_seconds(server: ServerProcess) -> float:
    return psutil.Process(server.process.pid).cpu_times().user
