"""A model that fails whatever it is given is opened anew, and refuses requests until it answers."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests import colour_bundles
from tests.calls import Connection, connected, refused
from tests.faults.model_health import (
    GOOD,
    NOT_SERVING,
    SERVING,
    Illness,
    assert_sums_up,
    health,
    label,
    others_served,
    ready,
)
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_FAILURES = 5


@pytest.fixture
def illness(tmp_path: Path) -> Illness:
    return Illness(tmp_path / "illness")


@pytest.fixture(
    params=[("--workers", "0"), ("--workers", "2"), ()], ids=["one process", "two workers", "GPU"]
)
def server(request: pytest.FixtureRequest, tmp_path: Path, illness: Illness) -> Iterator[ServerProcess]:
    colour_bundles.classifier(tmp_path / "models")
    colour_bundles.classifier(tmp_path / "models", "ailing")
    environment = {"AILING": str(illness.file)}
    if not request.param:
        environment["AILING_GPU"] = "1"
    with running_server(
        tmp_path / "models",
        *request.param,
        *(() if not request.param else ("--provider", "cpu")),
        environment=environment,
        module="tests.ailing_server",
    ) as server:
        yield server


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


def test_a_model_that_fails_is_refused_until_it_answers_again(
    server: ServerProcess, connection: Connection, illness: Illness
) -> None:
    def metric(name: str, **labels: str) -> float:
        return MetricsPage(server.http_url).value(name, model="ailing", **labels)

    assert metric("retinue_model_ready") == 1
    with others_served(server):
        illness.begin("ailing", "the weights are gone")
        for _ in range(_FAILURES):
            refusal = refused(lambda: connection.classify(GOOD, model="ailing"))
            assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
        wait_until(lambda: not ready(server, "ailing"), "the model to be unready")
        wait_until(lambda: health(connection, "ailing") == NOT_SERVING, "health to say so")
        refusal = refused(lambda: connection.classify(GOOD, model="ailing"))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "MODEL_UNREADY")
        assert metric("retinue_model_ready") == 0
        assert health(connection, "") == health(connection, "colour-classifier") == SERVING
        assert httpx.get(f"{server.http_url}/readyz").status_code == 200

        wait_until(lambda: metric("retinue_model_rebuilds_total", outcome="failed") > 1, "two attempts")
        illness.end()
        wait_until(lambda: health(connection, "ailing") == SERVING, "the model to be restored")
        assert label(connection, "ailing") == "red"
    assert metric("retinue_model_ready") == 1
    assert metric("retinue_model_rebuilds_total", outcome="done") == 1
    # What is refused was never an image of the model's.
    assert_sums_up(server, "ailing", answered=1, failed=_FAILURES)
    assert ready(server, "ailing")
    assert server.terminate() == 0


@pytest.mark.parametrize("server", [()], ids=["GPU"], indirect=True)
def test_a_device_that_is_gone_is_for_a_new_process_to_mend(
    server: ServerProcess, connection: Connection, illness: Illness
) -> None:
    illness.begin("*", "CUDA failure 700: an illegal memory access was encountered ; GPU=0")
    refusal = refused(lambda: connection.classify(GOOD, model="ailing"))
    assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
    # Nobody has asked the other one for anything.
    wait_until(lambda: health(connection, "colour-classifier") == NOT_SERVING, "both models to be unready")
    wait_until(lambda: httpx.get(f"{server.http_url}/livez").status_code == 503, "the process to be given up")
    assert httpx.get(f"{server.http_url}/readyz").status_code == 503
    assert health(connection, "") == NOT_SERVING
    assert server.terminate() == 0


@pytest.mark.parametrize("server", [()], ids=["GPU"], indirect=True)
def test_a_device_that_fails_one_model_costs_it_a_moment(
    server: ServerProcess, connection: Connection, illness: Illness
) -> None:
    with others_served(server):
        illness.begin("ailing", "CUDA failure 719: unspecified launch failure ; GPU=0")
        refused(lambda: connection.classify(GOOD, model="ailing"))
        illness.end()
        wait_until(lambda: health(connection, "ailing") == SERVING, "the model to be restored")
        assert label(connection, "ailing") == "red"
    assert httpx.get(f"{server.http_url}/livez").status_code == 200
    assert server.terminate() == 0
