"""Models that lie in a bucket are served from a copy, which follows it."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from retinue.inference import grpc_service_pb2 as pb
from retinue.inference import grpc_service_pb2_grpc
from tests import living_bundles, plain_models
from tests.calls import Connection, connected, flat, refused
from tests.integration.test_bad_start import told_why
from tests.metrics_page import MetricsPage, wait_until
from tests.object_store import ObjectStore, object_store
from tests.server_process import ServerProcess, running_server

_MODELS = "s3://models/served"
_RED = flat(255, 0, 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    """A bucket with version 1 of one model."""
    with object_store("models") as store:
        put(store, tmp_path, 1)
        yield store


def put(store: ObjectStore, tmp_path: Path, version: int, name: str = "colours") -> Path:
    aside = tmp_path / "aside"
    aside.mkdir(exist_ok=True)
    bundle = living_bundles.put(aside, name, version)
    store.upload(bundle, f"served/{name}/{version}")
    return bundle


def arguments(control: str) -> tuple[str, ...]:
    return "--provider", "cpu", "--tune", "off", "--model-control", control


def environment(store: ObjectStore, tmp_path: Path) -> dict[str, str]:
    return {**store.environment, "RETINUE_CACHE_FOLDER": str(tmp_path / "cache")}


def wait_for(connection: Connection, *versions: int) -> None:
    def served() -> bool:
        return [model.version for model in connection.list_models()] == list(versions)

    wait_until(served, f"versions {versions}", timeout_seconds=10)


def told_label(connection: Connection) -> str:
    return connection.classify(_RED, model="colours").outcomes[0].result.classes[0].label


def mirrored(server: ServerProcess) -> list[tuple[str, int]]:
    """What it has copied, in that order."""
    return [(event["model"], event["version"]) for event in server.events if event["event"] == "mirrored"]


def test_a_bucket_is_followed_and_its_copy_is_served_without_it(store: ObjectStore, tmp_path: Path) -> None:
    around = environment(store, tmp_path)
    with (
        running_server(_MODELS, *arguments("watch"), environment=around) as server,
        connected(server.grpc_address) as connection,
    ):
        assert told_label(connection) == "red-1"
        bundle = put(store, tmp_path, 2)
        wait_for(connection, 2, 1)
        assert told_label(connection) == "red-2"
        store.remove("served/colours/2")
        wait_for(connection, 1)
        # One that comes bit by bit, the graph last, is served when it is whole.
        for file in ("manifest.json", "model.onnx"):
            assert [model.version for model in connection.list_models()] == [1]
            store.put(f"served/colours/2/{file}", (bundle / file).read_bytes())
        wait_for(connection, 2, 1)
        assert not [event for event in server.events if event["event"] in {"model_refused", "mirror_refused"}]

        store.stop()
        assert "cannot be listed" in server.wait_for_event("mirror_failed")["reason"]
        assert MetricsPage(server.http_url).value("retinue_mirror_failed") == 1
        assert told_label(connection) == "red-2"
        assert server.terminate() == 0
        assert [event["event"] for event in server.events].count("mirror_failed") == 1
    with (
        running_server(_MODELS, *arguments("none"), environment=around) as server,
        connected(server.grpc_address) as connection,
    ):
        assert told_label(connection) == "red-2"
        assert MetricsPage(server.http_url).value("retinue_mirror_failed") == 1
        assert [event["event"] for event in server.events].count("mirror_failed") == 1
        assert mirrored(server) == []
        assert server.terminate() == 0


def test_a_bucket_that_cannot_be_reached_and_has_no_copy_is_told_at_the_start(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.stop()
    sentence = told_why(
        *("--models", _MODELS, "--grpc-port", "0", "--http-port", "0", *arguments("watch")),
        environment=environment(store, tmp_path),
    )
    assert f"the models at '{_MODELS}' cannot be listed" in sentence
    assert "check the address, the network and the credentials" in sentence


def test_calls_load_from_a_bucket_what_lies_there_then(store: ObjectStore, tmp_path: Path) -> None:
    put(store, tmp_path, 3, "more-colours")
    store.upload(plain_models.outside(tmp_path / "plain").parent, "served/outside/1")
    with (
        running_server(_MODELS, *arguments("explicit"), environment=environment(store, tmp_path)) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        connected(server.grpc_address) as connection,
    ):
        calls = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def load(name: str) -> None:
            calls.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=20)

        def index() -> list[str]:
            found = calls.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20)
            return [f"{model.name} {model.version} {model.state}" for model in found.models]

        assert index() == ["colours 1 UNAVAILABLE", "more-colours 3 UNAVAILABLE", "outside 1 UNAVAILABLE"]
        # To tell of them takes no copy.
        assert mirrored(server) == []
        load("colours")
        assert told_label(connection) == "red-1"
        put(store, tmp_path, 2)
        load("colours")
        assert told_label(connection) == "red-2"
        # It comes with the weights beside it.
        load("outside")
        assert mirrored(server) == [("colours", 1), ("colours", 2), ("outside", 1)]
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            load("nothing")

        store.stop()
        load("colours")
        refusal = refused(lambda: load("more-colours"))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "MODELS_UNREACHABLE")
        assert index() == ["colours 1 READY", "colours 2 READY", "outside 1 READY"]
        assert server.terminate() == 0
