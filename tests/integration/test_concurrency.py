"""Many callers at once: each gets the answer to its own images, or is told to come back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles, pictures
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import Connection, connected, encoded, flat, raw, refused, refused_image
from tests.colour_bundles import LABELS, SIDE
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server

_REQUESTS = 200
_CALLERS = 16
_MOST_IMAGES = 6
_COLOURS = (pictures.RED, pictures.GREEN, pictures.BLUE)


def _classify(connection: Connection, random: np.random.Generator) -> None:
    class_ids = random.integers(0, 3, random.integers(1, _MOST_IMAGES + 1))
    images = [encoded(pictures.png(_COLOURS[class_id])) for class_id in class_ids]
    outcomes = connection.classify(*images, top_k=1).outcomes
    assert [outcome.result.classes[0].class_id for outcome in outcomes] == class_ids.tolist()


def _classify_with_a_bad_image(connection: Connection, random: np.random.Generator) -> None:
    first, last = random.integers(0, 3, 2)
    images = [flat(*_COLOURS[first]), encoded(random.bytes(100)), flat(*_COLOURS[last])]
    good, bad, also_good = connection.classify(*images, top_k=1).outcomes
    assert good.result.classes[0].class_id == first
    assert also_good.result.classes[0].class_id == last
    assert refused_image(bad).code == "INVALID_ARGUMENT"


def _detect(connection: Connection, random: np.random.Generator) -> None:
    width, height = random.integers(1, 300, 2).tolist()
    level = int(random.integers(128, 256))
    pixels = np.full((height, width, 3), (0, level, 0), np.uint8)
    (outcome,) = connection.detect(raw(pixels)).outcomes
    (detection,) = outcome.result.detections
    assert detection.label == "green"
    assert detection.score == pytest.approx(level / 255)
    assert (detection.box.x_max, detection.box.y_max) == pytest.approx((width / 2, height))


def _segment(connection: Connection, random: np.random.Generator) -> None:
    maps = random.integers(0, 3, (random.integers(1, _MOST_IMAGES + 1), SIDE, SIDE), np.uint8)
    images = [raw(np.array(_COLOURS, np.uint8)[classes]) for classes in maps]
    outcomes = connection.segment(*images, mask_format=pb.MASK_FORMAT_RAW).outcomes
    for outcome, classes in zip(outcomes, maps, strict=True):
        assert outcome.result.raw == classes.tobytes()
        present = {LABELS[class_id] for class_id in np.unique(classes)}
        assert {area.label for area in outcome.result.areas} == present


_TASKS: tuple[Callable[[Connection, np.random.Generator], Any], ...] = (
    _classify,
    _classify_with_a_bad_image,
    _detect,
    _segment,
)


def test_each_of_many_callers_gets_its_own_answer(colour_server: ServerProcess) -> None:
    def call(seed: int) -> None:
        _TASKS[seed % len(_TASKS)](connections[seed % len(connections)], np.random.default_rng(seed))

    with (
        connected(colour_server.grpc_address) as first,
        connected(colour_server.grpc_address) as second,
        connected(colour_server.grpc_address) as third,
        ThreadPoolExecutor(_CALLERS) as callers,
    ):
        connections = (first, second, third)
        # Each result is asked for, so that a failed check fails the test.
        assert list(callers.map(call, range(_REQUESTS))) == [None] * _REQUESTS


@pytest.mark.parametrize("workers", ["0", "1"])
def test_calls_that_a_connection_does_not_carry_yet_wait_at_the_caller(tmp_path: Path, workers: str) -> None:
    colour_bundles.classifier(tmp_path, "red-or-not")
    arguments = ("--max-streams-per-connection", "3", "--workers", workers)
    with running_server(tmp_path, *arguments) as server, connected(server.grpc_address) as connection:
        request = pb.ClassifyRequest(model="red-or-not", images=[flat(255, 0, 0)])
        calls = [connection.vision.Classify.future(request) for _ in range(_REQUESTS)]
        assert [len(call.result().outcomes) for call in calls] == [1] * _REQUESTS
        page = MetricsPage(server.http_url)
        assert page.total("retinue_requests_total", method="Classify", code="OK") == _REQUESTS


def test_a_call_too_many_is_told_to_retry_while_health_is_still_answered(tmp_path: Path) -> None:
    odd_bundles.slow_classifier(tmp_path)
    arguments = ("--instances", "1", "--max-concurrent-requests", "1")
    with (
        running_server(tmp_path, *arguments) as server,
        connected(server.grpc_address) as connection,
        engine_held(connection, server) as slow,
    ):
        refusal = refused(connection.list_models)
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        assert refusal.retry_after_seconds is not None
        assert "taken at once, 1, are being answered" in refusal.message
        page = MetricsPage(server.http_url)
        assert page.value("retinue_requests_total", method="ListModels", code="RESOURCE_EXHAUSTED") == 1
        health = connection.health.Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert not slow.done()
        # The call that was there is answered, and so is the next one.
        assert slow.result().model == SLOW_MODEL
        assert connection.list_models()[0].name == SLOW_MODEL
