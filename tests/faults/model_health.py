"""What a server says of a model's health, and callers who go on meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from grpc_health.v1 import health_pb2
from tests.calls import Connection, connected, flat
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess

GOOD = flat(200, 0, 0)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(connection: Connection, service: str) -> int:
    """What grpc.health.v1 says of a service, which may be a model."""
    return int(connection.health.Check(health_pb2.HealthCheckRequest(service=service)).status)


def ready(server: ServerProcess, model: str) -> bool:
    """What the Open Inference Protocol says of a model."""
    return httpx.get(f"{server.http_url}/v2/models/{model}/ready").status_code == 200


def label(connection: Connection, model: str) -> str:
    """What a model says of a red image."""
    return str(connection.classify(GOOD, model=model).outcomes[0].result.classes[0].label)


@contextmanager
def others_served(server: ServerProcess, model: str = "colour-classifier") -> Iterator[None]:
    """Calls another model all the time, none of whose calls may fail."""
    over = threading.Event()
    answered: list[str] = []
    failed: list[BaseException] = []

    def call() -> None:
        with connected(server.grpc_address) as connection:
            while not over.is_set():
                try:
                    answered.append(label(connection, model))
                except BaseException as error:
                    failed.append(error)
                    return

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert failed == []
    assert answered
    assert set(answered) == {"red"}


def assert_sums_up(server: ServerProcess, model: str, *, answered: int, failed: int) -> None:
    """Each image of a model was counted once, as what its caller was told."""
    page = MetricsPage(server.http_url)
    for outcome, count in (("answered", answered), ("failed", failed)):
        assert page.total("retinue_images_total", model=model, outcome=outcome) == count
