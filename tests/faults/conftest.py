"""A server that faults are tried on, which must answer after each of them."""

import math
from collections.abc import Iterator

import pytest
from tests import colour_bundles, odd_bundles
from tests.calls import Connection, connected, flat
from tests.server_process import ServerProcess, running_server


@pytest.fixture(scope="session")
def fault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that runs one batch at a time, of models good, slow, failing and lying."""
    models = tmp_path_factory.mktemp("faults")
    colour_bundles.classifier(models)
    odd_bundles.slow_classifier(models)
    odd_bundles.failing_classifier(models)
    # Their graphs know three classes.
    colour_bundles.rewrite_manifest(colour_bundles.detector(models, "lying-detector"), labels=["red"])
    colour_bundles.rewrite_manifest(colour_bundles.segmenter(models, "lying-segmenter"), labels=["red"])
    odd_bundles.scaled(colour_bundles.classifier(models, "nan-classifier"), "probabilities", math.nan)
    odd_bundles.scaled(colour_bundles.classifier(models, "sevenfold-classifier"), "probabilities", 7)
    odd_bundles.scaled(colour_bundles.classifier(models, "negative-classifier"), "probabilities", -0.5)
    odd_bundles.scaled(colour_bundles.detector(models, "nan-detector"), "scores", math.nan)
    odd_bundles.scaled(colour_bundles.detector(models, "sevenfold-detector"), "scores", 7)
    odd_bundles.scaled(colour_bundles.detector(models, "boundless-detector"), "boxes", math.inf)
    with running_server(models, "--instances", "1") as server:
        yield server


@pytest.fixture(scope="session")
def connection(fault_server: ServerProcess) -> Iterator[Connection]:
    """A connection to it."""
    with connected(fault_server.grpc_address) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _still_answering(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to the server, it answers afterwards, on old connections and on new ones."""
    yield
    if "fault_server" not in request.fixturenames:
        return
    server = request.getfixturevalue("fault_server")
    old = request.getfixturevalue("connection")
    with connected(server.grpc_address) as new:
        for asked in (old, new):
            (outcome,) = asked.classify(flat(0, 255, 0), model="colour-classifier").outcomes
            assert outcome.result.classes[0].label == "green"
