"""What the benchmarks measure with, on a real server: a second each, and no figure is judged here."""

import io
from pathlib import Path

import numpy as np
import pytest
from benchmarks import ceiling, open_loop, served
from benchmarks.ceiling import Setting
from benchmarks.h2load import LoadError
from benchmarks.open_loop import Order
from benchmarks.served import RetinueServer
from benchmarks.workloads import Workload
from PIL import Image
from tests.busy import SLOW_MODEL
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess
from tests.system_packages import require

MODEL = "colour-classifier"
SECONDS = 1.0


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    return buffer.getvalue()


FILE = Workload("a file", MODEL, png())
PIXELS = Workload("pixels", MODEL, np.full((10, 20, 3), (255, 0, 0), np.uint8))


@pytest.fixture(scope="module", autouse=True)
def _h2load() -> None:
    require("nghttp2-client")


@pytest.mark.parametrize(("workload", "images"), [(FILE, 1), (PIXELS, 8)], ids=["file", "pixels"])
def test_a_server_is_measured_under_load(
    colour_server: ServerProcess, workload: Workload, images: int
) -> None:
    server = RetinueServer(colour_server)
    answered = "retinue_images_total"
    before = MetricsPage(colour_server.http_url).total(answered, model=MODEL, outcome="answered")

    measured = server.measure(workload, 4, SECONDS, images)

    done = MetricsPage(colour_server.http_url).total(answered, model=MODEL, outcome="answered") - before
    assert 0 < measured.images_per_second <= done / SECONDS
    assert 0 < measured.p50_ms <= measured.p99_ms
    assert measured.cpu_seconds_per_image > 0
    assert 0 < measured.client_share < 1


def test_refused_calls_spoil_a_measurement(small_server: ServerProcess) -> None:
    with pytest.raises(LoadError, match="calls or images of colour-classifier failed with 8 callers"):
        RetinueServer(small_server).measure(FILE, 8, SECONDS, images=30)


def test_a_server_that_answers_nothing_is_not_measured(colour_server: ServerProcess) -> None:
    unreadable = Workload("no image", MODEL, b"no image")

    with pytest.raises(LoadError, match=r"an image has no result: .*not an image file"):
        RetinueServer(colour_server).measure(unreadable, 1, SECONDS)


def test_requests_that_nobody_paces_are_all_accounted_for(
    colour_server: ServerProcess, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(FILE.request())
    order = Order(
        address=colour_server.grpc_address,
        path=served.CLASSIFY,
        body_file=str(body),
        rate_per_second=100,
        warming_seconds=0.2,
        seconds=SECONDS,
        timeout_ms=5000,
    )

    outcome = open_loop.drive(order)

    assert outcome.statuses == {"OK": 1.0}
    assert outcome.offered_per_second == outcome.goodput_per_second > 50
    assert 0 < outcome.p50_ms <= outcome.p99_ms < 5000


def test_requests_that_are_refused_are_told_from_others(small_server: ServerProcess, tmp_path: Path) -> None:
    body = tmp_path / "body"
    white = np.full((10, 20, 3), 255, np.uint8)
    body.write_bytes(Workload("slow", SLOW_MODEL, white).request())
    order = Order(
        address=small_server.grpc_address,
        path=served.CLASSIFY,
        body_file=str(body),
        rate_per_second=60,
        warming_seconds=0,
        seconds=SECONDS,
        timeout_ms=1500,
    )

    outcome = open_loop.drive(order)

    assert 0.2 < outcome.refused_share < 1
    assert 0 < outcome.refusal_p50_ms < 1000
    assert outcome.statuses.keys() <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert outcome.goodput_per_second < 60


def test_the_roofline_of_several_processes_is_measured(colour_models: Path) -> None:
    bundle = colour_models / MODEL / "1"

    alone = ceiling.measure(bundle, FILE.image, Setting(1, 1, 1, False, 1), 0.3)
    together = ceiling.measure(bundle, PIXELS.image, Setting(2, 1, 1, False, 4), 0.3)

    for measured in (alone, together):
        assert measured.images_per_second > 20
        assert measured.cpu_seconds_per_image > 0
        assert measured.batch_ms > 0
