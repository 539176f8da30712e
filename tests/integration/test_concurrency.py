"""Many callers at once: each gets the answer to its own images."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests import pictures
from tests.calls import Connection, connected, encoded, flat, raw, refused_image
from tests.colour_bundles import LABELS, SIDE
from tests.server_process import ServerProcess

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
