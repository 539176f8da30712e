"""Several front-ends on one port, in front of one engine."""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import grpc
import httpx
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles, pictures
from tests.busy import engine_held
from tests.calls import Connection, connected, encoded, flat, raw, refused, refused_image
from tests.integration.test_bad_start import told_why
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess, running_server

_COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
_CONNECTIONS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks, with all that some requests may want."""
    models = tmp_path_factory.mktemp("workers")
    colour_bundles.locator(models)
    colour_bundles.region_detector(models)
    colour_bundles.segmenter(models)
    odd_bundles.slow_classifier(models)
    return models


@pytest.fixture
def server(models: Path) -> Iterator[ServerProcess]:
    """One whose front-ends a test may end."""
    with running_server(models, "--workers", "2", "--instances", "1") as server:
        yield server


@pytest.fixture
def connections(server: ServerProcess) -> Iterator[list[Connection]]:
    """So many that every front-end has some."""
    with ExitStack() as opened:
        yield [opened.enter_context(connected(server.grpc_address)) for _ in range(_CONNECTIONS)]


def front_ends(server: ServerProcess) -> list[psutil.Process]:
    """The processes that have the port."""
    return [
        child
        for child in psutil.Process(server.process.pid).children()
        if "retinue_server.frontend" in child.cmdline()
    ]


def label(response: pb.ClassifyResponse) -> str:
    return str(response.outcomes[0].result.classes[0].label)


def calls_ok(server: ServerProcess) -> float:
    return MetricsPage(server.http_url).total("retinue_requests_total", method="Classify", code="OK")


def connections_of(process: psutil.Process) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


def listens(process: psutil.Process) -> bool:
    return any(one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp"))


def test_connections_are_divided_and_counted_together(
    server: ServerProcess, connections: list[Connection]
) -> None:
    for connection in connections:
        for colour, levels in _COLOURS.items():
            assert label(connection.classify(flat(*levels), model="colour-locator")) == colour
    held = [connections_of(process) for process in front_ends(server)]
    assert sum(held) == _CONNECTIONS
    page = MetricsPage(server.http_url)
    assert page.value("retinue_requests_total", method="Classify", code="OK") == 3 * _CONNECTIONS
    assert page.total("retinue_images_total", model="colour-locator", outcome="answered") == 3 * _CONNECTIONS
    assert len(page.find("retinue_worker_resident_memory_bytes")) == 2
    assert page.value("retinue_worker_restarts_total") == 0
    health = [
        connection.health.Check(health_pb2.HealthCheckRequest(service="colour-locator")).status
        for connection in connections
    ]
    assert set(health) == {health_pb2.HealthCheckResponse.SERVING}


def test_statistics_are_of_all_front_ends_whichever_is_asked(
    server: ServerProcess, connections: list[Connection]
) -> None:
    for connection in connections:
        connection.classify(flat(255, 0, 0), model="colour-locator")
    url = f"{server.http_url}/v2/models/colour-locator/stats"
    for _ in range(4):
        (told,) = httpx.get(url).raise_for_status().json()["model_stats"]
        assert int(told["inference_count"]) == _CONNECTIONS
        assert int(told["inference_stats"]["success"]["count"]) == _CONNECTIONS
        # By the engine's process.
        assert int(told["execution_count"]) == _CONNECTIONS


def test_calls_over_http_are_counted_once_whichever_process_refuses_them(server: ServerProcess) -> None:
    url = f"{server.http_url}/v2/models/colour-locator/infer"
    inputs = [{"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192}]
    told = [
        httpx.post(url, **how).status_code  # type: ignore[arg-type]
        for how in (
            {"json": {"inputs": inputs}},
            # Before it is passed on, and after.
            {"content": b"{"},
            {"json": {"inputs": [{**inputs[0], "name": "nothing"}]}},
        )
    ]
    assert told == [200, 400, 400]
    page = MetricsPage(server.http_url)
    assert page.total("retinue_requests_total", method="ModelInfer", code="OK") == 1
    assert page.total("retinue_requests_total", method="ModelInfer", code="INVALID_ARGUMENT") == 2


def test_every_task_and_every_extra_is_answered_by_every_front_end(connections: list[Connection]) -> None:
    half = np.zeros((40, 60, 3), np.uint8)
    half[:, :30] = (255, 0, 0)
    half[:, 30:] = (0, 0, 255)
    for connection in connections:
        shown = connection.classify(raw(half), flat(0, 255, 0), model="colour-locator", heatmap=True)
        assert all(one.result.heatmap.startswith(b"\x89PNG") for one in shown.outcomes)

        regions = image_pb2.Image(raw=raw(half).raw)
        regions.regions.add(x_min=0, y_min=0, x_max=29, y_max=40)
        regions.regions.add(x_min=31, y_min=0, x_max=60, y_max=40)
        found = connection.detect(
            regions, model="colour-regions", masks=True, score_threshold=0.4, iou_threshold=0.3
        )
        (outcome,) = found.outcomes
        assert {one.label for one in outcome.result.detections} == {"red", "blue"}
        assert all(one.mask_counts and one.keypoints for one in outcome.result.detections)

        pixels = np.array(list(_COLOURS.values()), np.uint8)[np.arange(64).reshape(8, 8) % 3]
        good, bad = connection.segment(
            raw(pixels), encoded(b"no image"), mask_format=pb.MASK_FORMAT_RAW
        ).outcomes
        assert good.result.raw == (np.arange(64) % 3).astype(np.uint8).tobytes()
        assert refused_image(bad).code == "INVALID_ARGUMENT"
        broken = pictures.png((255, 0, 0))[:50]
        late, fine = connection.segment(encoded(broken), raw(pixels)).outcomes
        assert refused_image(late).reason == "IMAGE_UNDECODABLE"
        assert fine.HasField("result")


def test_nobody_gets_anothers_answer_however_many_leave(
    server: ServerProcess, connections: list[Connection]
) -> None:
    """Half of the calls are cancelled, at any time; those that stay are answered rightly."""

    def call(seed: int) -> int:
        randomly = random.Random(seed)
        connection = connections[seed % len(connections)]
        answered = 0
        for _ in range(25):
            asked = [randomly.choice(list(_COLOURS)) for _ in range(randomly.randrange(1, 12))]
            images = [
                flat(*_COLOURS[one]) if randomly.random() < 0.7 else encoded(pictures.png(_COLOURS[one]))
                for one in asked
            ]
            heatmap = randomly.random() < 0.2
            request = pb.ClassifyRequest(model="colour-locator", images=images, top_k=1, heatmap=heatmap)
            going = connection.vision.Classify.future(request, timeout=60)
            if randomly.random() < 0.5:
                time.sleep(randomly.random() * 0.01)
                going.cancel()
            try:
                outcomes = going.result().outcomes
            except grpc.FutureCancelledError:
                continue
            assert [one.result.classes[0].label for one in outcomes] == asked
            answered += 1
        return answered

    with ThreadPoolExecutor(16) as callers:
        assert sum(callers.map(call, range(16))) > 50
    wait_until(lambda: waiting_images(server.http_url, "colour-locator") == 0, "the queue to be empty")
    # Nothing that was left behind is in the way of a request that needs room.
    many = [flat(0, 255, 0)] * 256
    for connection in connections:
        assert {
            one.result.classes[0].label for one in connection.classify(*many, model="colour-locator").outcomes
        } == {"green"}


def test_a_front_end_that_is_killed_comes_back_and_others_answer_meanwhile(
    server: ServerProcess, connections: list[Connection]
) -> None:
    for connection in connections:
        connection.classify(flat(255, 0, 0), model="colour-locator")
    victim = next(process for process in front_ends(server) if connections_of(process))
    done = Event()
    kept: list[grpc.StatusCode] = []

    def call(connection: Connection) -> int:
        answered = 0
        while not done.is_set():
            try:
                assert label(connection.classify(flat(0, 0, 255), model="colour-locator")) == "blue"
                answered += 1
            except grpc.RpcError as error:
                kept.append(error.code())
        return answered

    with ThreadPoolExecutor(_CONNECTIONS) as callers, ExitStack() as ending:
        ending.callback(done.set)
        calls = [callers.submit(call, connection) for connection in connections]
        seen = [calls_ok(server)]
        wait_until(lambda: calls_ok(server) > seen[0] + 50, "some load")
        seen.append(calls_ok(server))
        victim.kill()
        assert server.wait_for_event("worker_died")["exit_code"] == -signal.SIGKILL
        for _ in range(20):
            seen.append(calls_ok(server))
        wait_until(
            lambda: (
                MetricsPage(server.http_url).value("retinue_worker_restarts_total") == 1
                and len(front_ends(server)) == 2
            ),
            "it to be started again",
        )
        seen.append(calls_ok(server))
        done.set()
        answered = [one.result() for one in calls]
    seen.append(calls_ok(server))
    assert seen == sorted(seen)
    assert min(answered) > 0
    # Those whose connection broke were told to try again, by the library.
    assert set(kept) <= {grpc.StatusCode.UNAVAILABLE}
    wait_until(
        lambda: waiting_images(server.http_url, "colour-locator") == 0, "its images to leave the queue"
    )
    for connection in connections:
        assert label(connection.classify(flat(255, 0, 0), model="colour-locator")) == "red"
    assert server.terminate() == 0


def test_a_front_end_that_comes_back_takes_no_call_before_it_has_the_models(server: ServerProcess) -> None:
    before = front_ends(server)
    engine = psutil.Process(server.process.pid)
    before[0].kill()
    server.wait_for_event("worker_died")
    wait_until(lambda: len(front_ends(server)) == 2, "it to be started again")
    (back,) = (process for process in front_ends(server) if process not in before)
    # Who has the models cannot give them now.
    engine.suspend()
    with ExitStack() as opened:
        opened.callback(engine.resume)
        wait_until(lambda: listens(back), "it to have the port")
        connections = [opened.enter_context(connected(server.grpc_address)) for _ in range(2 * _CONNECTIONS)]
        callers = opened.enter_context(ThreadPoolExecutor(len(connections)))
        calls = [
            callers.submit(connection.classify, flat(0, 0, 255), model="colour-locator")
            for connection in connections
        ]
        answered, _ = wait(calls, timeout=1, return_when=FIRST_COMPLETED)
        assert not answered
        engine.resume()
        assert {label(call.result()) for call in calls} == {"blue"}


def test_the_images_of_a_front_end_that_dies_leave_the_queue(models: Path) -> None:
    with (
        running_server(models, "--workers", "1", "--instances", "1") as server,
        connected(server.grpc_address) as connection,
    ):
        with engine_held(connection, server, waiting=20) as slow:
            (only,) = front_ends(server)
            only.kill()
            with pytest.raises(grpc.RpcError) as raised:
                slow.result()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            wait_until(lambda: waiting_images(server.http_url, "slow-classifier") == 0, "its images to leave")
        wait_until(lambda: len(front_ends(server)) == 1, "it to be started again")
        request = pb.ClassifyRequest(model="colour-locator", images=[flat(255, 0, 0)])
        answer = connection.vision.Classify(request, timeout=30, wait_for_ready=True)
        assert label(answer) == "red"


def test_sigterm_under_load_loses_no_call(server: ServerProcess, connections: list[Connection]) -> None:
    enough = Event()

    def call(connection: Connection) -> tuple[int, grpc.StatusCode]:
        answered = 0
        while True:
            for colour, levels in _COLOURS.items():
                try:
                    assert label(connection.classify(flat(*levels), model="colour-locator")) == colour
                except grpc.RpcError as error:
                    return answered, error.code()
                answered += 1
                if answered == 30:
                    enough.set()

    with ThreadPoolExecutor(_CONNECTIONS) as callers:
        calls = [callers.submit(call, connection) for connection in connections]
        assert enough.wait(60)
        children = front_ends(server)
        # As a service manager does it, which tells all processes at once.
        for process in children:
            process.terminate()
        code = server.terminate()
        ended = [one.result() for one in calls]
    assert code == 0
    assert {status for _, status in ended} == {grpc.StatusCode.UNAVAILABLE}
    assert max(answered for answered, _ in ended) >= 30
    assert [event for event in server.events if event["level"] in ("error", "critical")] == []
    assert server.events[-1]["event"] == "stopped"
    assert not any(child.is_running() for child in children)


def test_front_ends_end_with_the_engines_process(models: Path) -> None:
    with running_server(models, "--workers", "2") as server:
        children = front_ends(server)
        assert len(children) == 2
        os.kill(server.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive


@pytest.mark.parametrize("second_workers", ["0", "2"])
def test_a_second_server_on_the_port_is_refused(
    second_workers: str, server: ServerProcess, connections: list[Connection], models: Path
) -> None:
    port = server.grpc_address.rsplit(":", 1)[1]
    sentence = told_why(
        *("--models", str(models), "--grpc-port", port, "--http-port", "0", "--workers", second_workers)
    )
    assert f"cannot listen on 127.0.0.1:{port}" in sentence
    assert "--grpc-port" in sentence
    assert label(connections[0].classify(flat(255, 0, 0), model="colour-locator")) == "red"


def test_front_ends_do_not_share_the_port_of_a_server_in_one_process(models: Path) -> None:
    with running_server(models) as server:
        port = server.grpc_address.rsplit(":", 1)[1]
        sentence = told_why(
            "--models", str(models), "--grpc-port", port, "--http-port", "0", "--workers", "2"
        )
        assert f"cannot listen on 127.0.0.1:{port}" in sentence


def test_overload_is_refused_before_images_are_decoded(models: Path) -> None:
    with (
        running_server(models, "--workers", "2", "--instances", "1", "--max-queue-images", "40") as server,
        connected(server.grpc_address) as connection,
        engine_held(connection, server),
    ):
        full = connection.vision.Classify.future(
            pb.ClassifyRequest(model="colour-locator", images=[flat(255, 0, 0)] * 40)
        )
        wait_until(lambda: waiting_images(server.http_url, "colour-locator") == 40, "a full queue")
        before = MetricsPage(server.http_url)
        with connected(server.grpc_address) as other:
            refusal = refused(lambda: other.classify(*[flat(0, 255, 0)] * 3, model="colour-locator"))
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert refusal.retry_after_seconds is not None
        after = MetricsPage(server.http_url)
        for page in (before, after):
            assert (
                page.total("retinue_stage_duration_seconds_count", stage="decode", model="colour-locator")
                == 0
            )
        assert not full.done()
        full.cancel()


def test_bundles_that_do_not_hold_end_all_processes(tmp_path: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    (bundle / "model.onnx").write_bytes(b"no model")
    sentence = told_why("--models", str(tmp_path), "--grpc-port", "0", "--http-port", "0", "--workers", "2")
    assert "none of the bundles can be served" in sentence
