"""Starting and stopping: what is in flight is finished, nothing is lost, and everybody is told."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles, plain_models
from tests.busy import engine_held
from tests.calls import Connection, connected, flat, refused
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess, running_server

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_COLOURS = {"red": flat(255, 0, 0), "green": flat(0, 255, 0), "blue": flat(0, 0, 255)}


@pytest.fixture(scope="module")
def slow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("slow")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    return models


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _label(response: pb.ClassifyResponse) -> str:
    return str(response.outcomes[0].result.classes[0].label)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_finishes_what_is_in_flight_and_takes_nothing_new(
    end: signal.Signals, slow_models: Path
) -> None:
    # Longer than this test may take: whoever watches the health does not keep the server from its end.
    with (
        running_server(slow_models, "--instances", "1", "--drain-seconds", "600") as server,
        connected(server.grpc_address) as connection,
    ):
        watch = connection.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == _SERVING
        with engine_held(connection, server) as slow:
            waiting = {
                label: connection.vision.Classify.future(
                    pb.ClassifyRequest(model="colour-classifier", images=[image])
                )
                for label, image in _COLOURS.items()
            }
            wait_until(lambda: waiting_images(server.http_url, "colour-classifier") == 3, "three to wait")

            server.process.send_signal(end)
            server.wait_for_event("draining")
            assert next(watch).status == _NOT_SERVING
            assert httpx.get(f"{server.http_url}/readyz").status_code == 503
            assert httpx.get(f"{server.http_url}/livez").status_code == 200
            assert waiting_images(server.http_url, "colour-classifier") == 3
            with connected(server.grpc_address) as late:
                for caller in (connection, late):
                    refusal = refused(lambda caller=caller: caller.classify(flat(0)))  # type: ignore[misc]
                    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DRAINING")
                    assert "retry on another one" in refusal.message

            assert {label: _label(call.result()) for label, call in waiting.items()} == {
                label: label for label in _COLOURS
            }
            assert all(outcome.HasField("result") for outcome in slow.result().outcomes)
        assert server.wait() == 0
        with pytest.raises(grpc.RpcError) as raised:
            connection.classify(flat(0))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.events[-1]["event"] == "stopped"
        assert not any(event["level"] in ("error", "critical") for event in server.events)


def test_sigterm_under_load_loses_no_call(slow_models: Path) -> None:
    """Every call is either answered rightly or was never taken."""
    seen: list[grpc.StatusCode] = []
    enough = Event()

    def call_until_refused(address: str) -> int:
        answered = 0
        with connected(address) as connection:
            while True:
                for label, image in _COLOURS.items():
                    try:
                        response = connection.classify(image, model="colour-classifier")
                    except grpc.RpcError as error:
                        seen.append(error.code())
                        return answered
                    assert _label(response) == label
                    answered += 1
                    if answered == 30:
                        enough.set()

    with running_server(slow_models) as server:
        with ThreadPoolExecutor(8) as callers:
            calls = [callers.submit(call_until_refused, server.grpc_address) for _ in range(8)]
            assert enough.wait(60)
            code = server.terminate()
            answered = [call.result() for call in calls]
        assert code == 0
        assert max(answered) >= 30
        assert set(seen) == {grpc.StatusCode.UNAVAILABLE}
        assert not any(event["level"] in ("error", "critical") for event in server.events)


def test_what_takes_longer_than_the_grace_is_given_up(slow_models: Path) -> None:
    with (
        running_server(slow_models, "--instances", "1", "--drain-seconds", "0") as server,
        connected(server.grpc_address) as connection,
        engine_held(connection, server, waiting=20) as slow,
    ):
        server.process.send_signal(signal.SIGINT)
        refusal = refused(slow.result)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        assert server.wait() == 0


def test_a_server_told_to_stop_while_it_starts_stops(slow_models: Path) -> None:
    server = ServerProcess(slow_models)
    try:
        server.wait_for_event("starting", 60)
        assert server.terminate() == 0
        assert not any("Traceback" in line for line in server.stderr_lines)
    finally:
        server.close()


class EndlessModel:
    """Weights beside a graph that take minutes to read, though they take no room, until they are cut off."""

    def __init__(self, model: Path) -> None:
        self._path = model.parent / "weights.bin"
        os.truncate(self._path, 1 << 40)

    def cut_off(self) -> None:
        """Lets whoever reads them come to an end; their model is broken then."""
        os.truncate(self._path, 0)


def test_a_server_that_loads_is_alive_and_not_ready(tmp_path: Path) -> None:
    # Bundles are loaded by name.
    first = EndlessModel(plain_models.outside(tmp_path, "an-endless-model"))
    colour_bundles.classifier(tmp_path)
    grpc_port, http_port = _free_port(), _free_port()
    http_url = f"http://127.0.0.1:{http_port}"
    server = ServerProcess(tmp_path, "--grpc-port", str(grpc_port), "--http-port", str(http_port))
    try:
        with connected(f"127.0.0.1:{grpc_port}") as connection:
            grpc.channel_ready_future(connection.channel).result(60)
            for refusal in (
                refused(connection.list_models),
                refused(lambda: connection.classify(flat(0))),
            ):
                assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "LOADING")
                assert "retry shortly" in refusal.message
            assert connection.health.Check(health_pb2.HealthCheckRequest()).status == _NOT_SERVING
            assert httpx.get(f"{http_url}/livez").status_code == 200
            assert httpx.get(f"{http_url}/readyz").status_code == 503
            assert MetricsPage(http_url).value("retinue_ready") == 0

            first.cut_off()
            server.wait_for_event("ready", 60)
            assert connection.health.Check(health_pb2.HealthCheckRequest()).status == _SERVING
            assert httpx.get(f"{http_url}/readyz").status_code == 200
            assert _ask(connection) == "colour-classifier"
    finally:
        server.close()


def _ask(connection: Connection) -> str:
    return str(connection.list_models()[0].name)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_server_under_nohup_outlives_its_terminal(workers: str, slow_models: Path) -> None:
    with (
        running_server(slow_models, "--workers", workers, under=("nohup",)) as server,
        connected(server.grpc_address) as connection,
    ):
        for process in (
            server.process.pid,
            *(one.pid for one in psutil.Process(server.process.pid).children()),
        ):
            os.kill(process, signal.SIGHUP)
        assert _label(connection.classify(_COLOURS["red"], model="colour-classifier")) == "red"
        assert server.terminate() == 0
