"""Connections to the servers that the tests of this folder share."""

from collections.abc import Iterator

import pytest
from tests import colour_bundles, odd_bundles
from tests.calls import Connection, connected, flat
from tests.server_process import ServerProcess, running_server
from tests.triton import TritonClient

SMALL_QUEUE_IMAGES = 40
SMALL_REQUEST_BYTES = 100_000


@pytest.fixture(scope="session")
def colour(colour_server: ServerProcess) -> Iterator[Connection]:
    """A connection to the server with one tiny bundle a task."""
    with connected(colour_server.grpc_address) as connection:
        yield connection


@pytest.fixture
def still_answering(request: pytest.FixtureRequest, colour: Connection) -> Iterator[None]:
    """Whatever a test does, the servers it uses answer afterwards."""
    yield
    asked = [colour]
    if "small" in request.fixturenames:
        asked.append(request.getfixturevalue("small"))
    for connection in asked:
        response = connection.classify(flat(255, 0, 0), model="colour-classifier", top_k=1)
        assert response.outcomes[0].result.classes[0].label == "red"


@pytest.fixture(scope="session", params=[0, 2], ids=["one process", "two front-ends"])
def small_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with narrow limits, one batch at a time, and classifiers only, of which one can be made to take long."""
    models = tmp_path_factory.mktemp("small")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    limits = (
        *("--instances", "1"),
        *("--max-queue-images", str(SMALL_QUEUE_IMAGES)),
        *("--max-request-bytes", str(SMALL_REQUEST_BYTES)),
        *("--workers", str(request.param)),
    )
    with running_server(models, *limits) as server:
        yield server


@pytest.fixture(scope="session")
def small(small_server: ServerProcess) -> Iterator[Connection]:
    """A connection to it."""
    with connected(small_server.grpc_address) as connection:
        yield connection


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on tiny bundles, which reads shared memory; it has logged no error when the tests are over."""
    models = tmp_path_factory.mktemp("triton")
    colour_bundles.classifier(models)
    colour_bundles.classifier(models, version=2)
    colour_bundles.detector(models)
    colour_bundles.region_detector(models)
    colour_bundles.segmenter(models)
    with running_server(models, "--system-shared-memory", "on") as server:
        yield server
        assert not [event for event in server.events if event["level"] == "error"]


@pytest.fixture(scope="session")
def triton(triton_server: ServerProcess) -> TritonClient:
    """Triton's client of it."""
    return TritonClient(triton_server.grpc_address)
