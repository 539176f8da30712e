"""Killed at any moment, a server starts again where it was, and what it had half written harms nobody."""

import random
import signal
import threading
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests import living_bundles
from tests.calls import connected, flat
from tests.metrics_page import MetricsPage, wait_until
from tests.ports import free_port
from tests.server_process import ServerProcess, running_server

# From before Python has imported anything to a server that has been under load for a while.
_LONGEST_LIFE_SECONDS = 2.0


def _calls_until(done: threading.Event, address: str, wrong: list[str]) -> None:
    """Calls whatever there is, and notes answers that are not right."""
    with connected(address) as connection:
        while not done.is_set():
            request = pb.ClassifyRequest(model="colours", images=[flat(255, 0, 0)])
            with suppress(grpc.RpcError):
                (outcome,) = connection.vision.Classify(request, timeout=5).outcomes
                label = outcome.result.classes[0].label
                if not label.startswith("red-"):
                    wrong.append(label)


@pytest.mark.parametrize(("workers", "kills"), [(0, 12), (1, 4)], ids=["one process", "a front-end"])
def test_a_server_that_is_killed_again_and_again(workers: int, kills: int, tmp_path: Path) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    models.mkdir()
    arguments = (
        *("--grpc-port", str(free_port()), "--http-port", str(free_port()), "--cache-folder", str(cache)),
        *("--model-control", "watch", "--workers", str(workers)),
    )
    address = f"127.0.0.1:{arguments[1]}"
    wrong: list[str] = []
    done = threading.Event()
    moments = random.Random(workers)
    caller = threading.Thread(target=_calls_until, args=(done, address, wrong))
    caller.start()
    try:
        for version in range(1, kills + 1):
            # A model that is new to the cache, so that something is written while it dies.
            living_bundles.put(models, "colours", version)
            server = ServerProcess(models, *arguments)
            try:
                with suppress(TimeoutError):
                    _ended(server, moments.uniform(0.2, _LONGEST_LIFE_SECONDS))
                server.process.send_signal(signal.SIGKILL)
                assert server.wait() == -signal.SIGKILL
            finally:
                server.close()
    finally:
        done.set()
        caller.join()
    assert wrong == []

    with running_server(models, *arguments) as server, connected(address) as connection:
        (outcome,) = connection.classify(flat(255, 0, 0), model="colours").outcomes
        assert outcome.result.classes[0].label == f"red-{kills}"
        wait_until(
            lambda: MetricsPage(server.http_url).total("retinue_queue_images") == 0, "the queue to be empty"
        )
        page = MetricsPage(server.http_url)
        assert page.total("retinue_images_total", outcome="answered") == 1
        assert page.total("retinue_model_load_failed") == 0
        assert server.terminate() == 0
    assert not [event for event in server.events if event["level"] in ("error", "critical")]


def _ended(server: ServerProcess, seconds: float) -> None:
    """Lets a server live for a while.

    Raises:
        TimeoutError: It still does.
    """
    try:
        server.process.wait(seconds)
    except Exception as error:
        raise TimeoutError from error
    raise AssertionError("\n".join(server.stderr_lines))
