"""The wall clock may jump: deadlines, timeouts and queues go by another one."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles
from tests.busy import engine_held
from tests.calls import connected, flat
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess, running_server
from tests.system_packages import require


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says how far the server's wall clock is off."""
    require("faketime")
    file = tmp_path_factory.mktemp("clock") / "offset"
    file.write_text("+0")
    return file


@pytest.fixture(scope="module")
def server(clock: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    options = ("--instances", "1", "--model-control", "watch", "--max-connection-idle-seconds", "60")
    with running_server(models, *options, environment=environment) as process:
        yield process


@pytest.mark.parametrize("jump", ["+400d", "-400d"], ids=["forward", "back"])
def test_calls_are_answered_and_deadlines_hold_while_the_clock_jumps(
    jump: str, clock: Path, server: ServerProcess
) -> None:
    clock.write_text("+0")
    before = MetricsPage(server.http_url)
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(0, 0, 255)])
    with connected(server.grpc_address) as connection, connected(server.grpc_address) as busy:
        with engine_held(busy, server):
            patient = connection.vision.Classify.future(request, timeout=60)
            hasty = connection.vision.Classify.future(request, timeout=0.2)
            wait_until(lambda: waiting_images(server.http_url, "colour-classifier") >= 1, "a call to wait")
            clock.write_text(jump)
            assert hasty.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert patient.result().outcomes[0].result.classes[0].label == "blue"
        assert connection.vision.Classify(request, timeout=10).outcomes[0].HasField("result")
    for path in ("/livez", "/readyz"):
        assert httpx.get(f"{server.http_url}{path}").status_code == 200
    after = MetricsPage(server.http_url)
    answered = {"method": "Classify", "model": "colour-classifier", "code": "OK"}
    assert (
        after.total("retinue_requests_total", **answered) - before.total("retinue_requests_total", **answered)
        == 2
    )
    assert after.total("retinue_queue_images") == 0
    # No histogram of times has a year in it.
    assert after.total("retinue_request_duration_seconds_sum") < 3600


def test_the_clock_did_jump(clock: Path, server: ServerProcess) -> None:
    """Else the above shows nothing."""
    clock.write_text("+400d")
    with connected(server.grpc_address) as connection:
        connection.list_models()
    years = {event["timestamp"][:4] for event in server.events}
    httpx.get(f"{server.http_url}/metrics")
    assert server.terminate() == 0
    assert {event["timestamp"][:4] for event in server.events} > years
