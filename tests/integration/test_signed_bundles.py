"""With --require-signature, a real server serves what a trusted key has signed, and says why it serves nothing else."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import colour_bundles, living_bundles, pipelines, plain_models
from tests.calls import Connection, connected, flat
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server
from tests.signers import Signer, write_keys

from retinue_client import Client, ModelControlError

_RED = flat(255, 0, 0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def keys(tmp_path: Path, signer: Signer) -> Path:
    return write_keys(tmp_path / "keys.pem", signer)


def served(connection: Connection) -> set[tuple[str, int]]:
    return {(model.name, model.version) for model in connection.list_models()}


def label(connection: Connection, model: str) -> str:
    return connection.classify(_RED, model=model).outcomes[0].result.classes[0].label


@pytest.fixture
def watching(models: Path, keys: Path, signer: Signer, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that follows a folder in which one bundle holds."""
    signer.sign(living_bundles.put(models, "good", 1))
    told = (
        "--require-signature",
        str(keys),
        "--model-control",
        "watch",
        "--cache-folder",
        str(tmp_path / "cache"),
    )
    with running_server(models, *told) as server:
        yield server


def test_only_what_is_signed_is_served_and_the_rest_is_told_of(
    watching: ServerProcess, models: Path, keys: Path, signer: Signer
) -> None:
    other = Signer()
    living_bundles.put(models, "unsigned", 1)
    other.sign(living_bundles.put(models, "foreign", 1))
    colour_bundles.rewrite_manifest(
        signer.sign(living_bundles.put(models, "relabelled", 1)), labels=["a", "b", "c"]
    )
    changed = signer.sign(living_bundles.put(models, "changed", 1)) / "model.onnx"
    shutil.copy(signer.sign(living_bundles.put(models, "swapped", 1, inverted=True)) / "model.onnx", changed)
    # Version 2 is what was signed as version 1.
    shutil.copytree(models / "good" / "1", models / "good" / "2")
    plain_models.adder(models)
    pipelines.declare(models, "pair", "TASK_TENSOR", "good", "good")
    why = {
        ("unsigned", 1): "manifest.sig is missing, and a signature is required",
        ("foreign", 1): "manifest.sig is no signature of manifest.json as foreign/1",
        ("relabelled", 1): "manifest.sig is no signature of manifest.json as relabelled/1",
        ("changed", 1): "field `sha256`",
        ("good", 2): "manifest.sig is no signature of manifest.json as good/2",
        ("adder", 1): "manifest.json is missing, and a signature is required",
        ("pair", 1): "manifest.sig is missing",
    }
    with Client(watching.grpc_address) as client, connected(watching.grpc_address) as connection:

        def index() -> dict[tuple[str, int], tuple[str, str]]:
            return {(one.name, one.version): (one.state, one.reason) for one in client.list_versions()}

        wait_until(lambda: {("good", 1), ("swapped", 1)} == served(connection), "what is signed")
        wait_until(
            lambda: all(index().get(key, ("", ""))[0] == "unavailable" for key in why), "all to be judged"
        )
        for key, reason in why.items():
            assert reason in index()[key][1], key
            assert str(models) not in index()[key][1]
        failed = MetricsPage(watching.http_url).find("retinue_model_load_failed")
        assert {(one.labels["model"], int(one.labels["version"])) for one in failed} == set(why)

        # What is mended comes, without a restart: signed now, by a key that is trusted now.
        signer.sign(models / "unsigned" / "1")
        wait_until(lambda: ("unsigned", 1) in served(connection), "the bundle that is signed now")
        write_keys(keys, signer, other)
        wait_until(lambda: ("foreign", 1) in served(connection), "the other signer's bundle")
        # A key that is taken away ends nothing that runs, and nothing more of it is served.
        write_keys(keys, signer)
        other.sign(living_bundles.put(models, "late", 1))
        wait_until(
            lambda: "no signature" in index().get(("late", 1), ("", ""))[1], "the late one to be refused"
        )
        assert label(connection, "foreign") == "red-1"


def test_what_takes_the_place_of_a_bundle_that_is_served_needs_a_signature(
    watching: ServerProcess, models: Path, signer: Signer
) -> None:
    with connected(watching.grpc_address) as connection:
        page = lambda: MetricsPage(watching.http_url).find("retinue_model_load_failed", model="good")  # noqa: E731
        living_bundles.put(models, "good", 1, inverted=True)
        wait_until(lambda: bool(page()), "it to be refused")
        assert label(connection, "good") == "red-1"
        signer.sign(models / "good" / "1")
        wait_until(lambda: label(connection, "good") != "red-1", "the one that is signed")


def test_nothing_unsigned_is_loaded_by_a_call(models: Path, keys: Path, signer: Signer) -> None:
    living_bundles.put(models, "colours", 1)
    told = ("--require-signature", str(keys), "--model-control", "explicit")
    with (
        running_server(models, *told) as server,
        connected(server.grpc_address) as connection,
        Client(server.grpc_address) as client,
    ):
        with pytest.raises(ModelControlError, match=r"manifest\.sig is missing, and a signature is required"):
            client.load_model("colours")
        assert served(connection) == set()
        signer.sign(models / "colours" / "1")
        client.load_model("colours")
        assert label(connection, "colours") == "red-1"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Signer().private, "has a private key"),
        (os.urandom(100), "has no public key in PEM"),
    ],
    ids=["a private key", "no key"],
)
def test_a_server_does_not_start_without_keys(
    content: bytes, told: str, models: Path, tmp_path: Path
) -> None:
    colour_bundles.classifier(models)
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    path.chmod(0o644)
    server = ServerProcess(models, "--require-signature", str(path))
    try:
        assert server.wait() == 2
        assert f"--require-signature '{path}' {told}" in server.stderr_lines[-1]
    finally:
        server.close()


def test_a_server_of_unsigned_bundles_alone_does_not_start(models: Path, keys: Path) -> None:
    colour_bundles.classifier(models)
    server = ServerProcess(models, "--require-signature", str(keys))
    try:
        assert server.wait() == 2
        assert "none of the bundles can be served" in server.stderr_lines[-1]
        assert "sign it with retinue-export sign" in server.stderr_lines[-1]
    finally:
        server.close()
