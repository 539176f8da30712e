"""serving.json is edited while a server answers: labels, shares and shadows follow it, and no request fails."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from retinue.inference import grpc_service_pb2 as oip
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import serving_pb2, vision_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, living_bundles
from tests.calls import Connection, connected, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server
from typer.testing import CliRunner

from retinue_client.cli import _promote
from retinue_client.cli._app import app

_RED = flat(255, 0, 0)
_CALLERS = 6
_SPLIT = [{"label": "stable", "percent": 50}, {"label": "canary", "percent": 50}]
_LABELS = {"stable": 1, "canary": 2}
_USERS = [f"user-{number}" for number in range(40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions each of a classifier, whose second takes red for another colour, a detector and a segmenter."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        living_bundles.put(folder, "colours", version, inverted=version == 2)
        colour_bundles.detector(folder, version=version)
        colour_bundles.segmenter(folder, version=version)
    for name in ("colour-detector", "colour-segmenter"):
        write(
            folder,
            name,
            {"split": [{"version": 1, "percent": 100}], "shadow": {"version": 2, "percent": 100}},
        )
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with running_server(models, "--provider", "cpu", "--model-control", "watch") as process:
        yield process
        assert process.terminate() == 0


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as channel:
        yield channel


def write(models: Path, name: str, content: Any) -> None:
    """Puts a model's serving.json there by rename."""
    coming = models / f".{name}.json"
    coming.write_text(content if isinstance(content, str) else json.dumps(content))
    coming.rename(models / name / "serving.json")


def edit(models: Path, connection: Connection, content: dict[str, Any]) -> None:
    """Edits the serving.json of the classifier, and waits until it holds."""
    write(models, "colours", content)
    wanted = json_format.ParseDict(content, serving_pb2.ServingPolicy())
    wait_until(
        lambda: connection.get_model("colours").serving == wanted, f"{content} to hold", timeout_seconds=10
    )


def told_version(connection: Connection, user: str = "", **request: Any) -> int:
    """Asks once, over the typed API; what answers says so by its label, too."""
    ask = pb.ClassifyRequest(images=[_RED], model="colours", **request)
    reply = connection.vision.Classify(ask, timeout=30, metadata=[("user-id", user)] if user else None)
    assert reply.outcomes[0].result.classes[0].label.endswith(f"-{reply.version}")
    return reply.version


def infer(
    connection: Connection, model: str = "colours", version: str = "", user: str = ""
) -> oip.ModelInferResponse:
    """Asks once, over the Open Inference Protocol."""
    pixels = np.full((1, 8, 8, 3), (255, 0, 0), np.uint8)
    tensor = oip.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=pixels.shape)
    ask = oip.ModelInferRequest(
        model_name=model, model_version=version, inputs=[tensor], raw_input_contents=[pixels.tobytes()]
    )
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
    return stub.ModelInfer(ask, timeout=30, metadata=[("user-id", user)] if user else None)


def test_a_version_is_named_by_its_label(models: Path, connection: Connection) -> None:
    edit(models, connection, {"labels": _LABELS})
    assert [told_version(connection, version_label=label) for label in _LABELS] == [1, 2]
    assert [infer(connection, version=label).model_version for label in _LABELS] == ["1", "2"]
    assert told_version(connection) == 2
    edit(models, connection, {"labels": {"stable": 2}})
    assert told_version(connection, version_label="stable") == 2
    for ask in (
        lambda: told_version(connection, version_label="canary"),
        lambda: infer(connection, version="canary"),
    ):
        refusal = refused(ask)
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "has no label 'canary'; labels: 'stable'; versions served: '2', '1'." in refusal.message
    twice = refused(lambda: told_version(connection, version=1, version_label="stable"))
    assert (twice.code, twice.reason) == ("INVALID_ARGUMENT", "VERSION_NAMED_TWICE")


def test_requests_are_shared_out_and_stick_to_their_user(models: Path, connection: Connection) -> None:
    edit(models, connection, {"labels": _LABELS, "split": _SPLIT, "sticky_key": "user-id"})
    by_user = {user: told_version(connection, user) for user in _USERS}
    assert {1, 2} == set(by_user.values())
    assert {user: told_version(connection, user) for user in _USERS} == by_user
    assert {user: int(infer(connection, user=user).model_version) for user in _USERS} == by_user
    by_chance = Counter(told_version(connection) for _ in range(100))
    assert 20 < by_chance[1] < 80
    # Whoever names a version has it.
    assert {told_version(connection, user, version=1) for user in _USERS} == {1}
    edit(models, connection, {"labels": _LABELS, "split": [{"label": "stable", "percent": 100}]})
    assert {told_version(connection, user) for user in _USERS} == {1}


async def test_no_request_fails_while_the_policy_is_edited(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    edit(models, connection, {"labels": _LABELS})
    over = asyncio.Event()

    async def call(**version: str) -> set[int]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(server.grpc_address, options=options) as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            request = pb.ClassifyRequest(images=[_RED], model="colours", **version)
            answered = set()
            while not over.is_set():
                answered.add((await stub.Classify(request, timeout=30)).version)
            return answered

    callers = [asyncio.ensure_future(call()) for _ in range(_CALLERS)]
    labelled = asyncio.ensure_future(call(version_label="stable"))
    loads = [event["event"] for event in server.events].count("model_loaded")
    for content in (
        {"labels": _LABELS, "split": _SPLIT},
        {"labels": {"stable": 2, "canary": 1}, "split": _SPLIT, "shadow": {"version": 1, "percent": 100}},
        {"latest": 1, "labels": {"stable": 2}},
        {"labels": _LABELS},
    ):
        await asyncio.to_thread(edit, models, connection, content)
    over.set()
    answered = set().union(*await asyncio.gather(*callers))
    assert answered == {1, 2}
    assert await labelled == {1, 2}
    # Version 1 went and came, and nothing else did.
    assert [event["event"] for event in server.events].count("model_loaded") == loads + 1


def test_a_policy_that_does_not_hold_replaces_none_that_works(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    edit(models, connection, {"labels": _LABELS})
    write(models, "colours", {"labels": {"stable": 1, "7": 2}})
    wait_until(
        lambda: MetricsPage(server.http_url).total("retinue_serving_policy_failed", model="colours") == 1,
        "the metric",
    )
    event = server.wait_for_event("serving_policy_refused")
    assert event["reason"].startswith("serving.json: field `labels` must begin with a letter")
    assert told_version(connection, version_label="canary") == 2
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)

    def reasons() -> list[str]:
        index = stub.RepositoryIndex(oip.RepositoryIndexRequest()).models
        mine = [one for one in index if one.name == "colours"]
        assert [(one.version, one.state) for one in mine] == [("1", "READY"), ("2", "READY")]
        return [one.reason for one in mine]

    assert all("field `labels`" in reason for reason in reasons())
    write(models, "colours", {"labels": {"stable": 9}})
    wait_until(lambda: "names version 9" in reasons()[0], "its reason")
    assert told_version(connection, version_label="canary") == 2
    edit(models, connection, {"labels": {"stable": 1}})
    assert not MetricsPage(server.http_url).find("retinue_serving_policy_failed")


def compared(server: ServerProcess, model: str) -> tuple[float, float]:
    """How many copies were compared, and the sum of how far they agree."""
    page = MetricsPage(server.http_url)
    labels = {"model": model, "version": "1", "candidate": "2"}
    assert page.total("retinue_shadow_images_total", outcome="failed", **labels) == 0
    count = page.total("retinue_shadow_images_total", outcome="compared", **labels)
    return count, page.total("retinue_shadow_agreement_sum", **labels)


def outcomes(server: ServerProcess, model: str, *wanted: str) -> list[float]:
    page = MetricsPage(server.http_url)
    return [page.total("retinue_shadow_images_total", model=model, outcome=outcome) for outcome in wanted]


def test_a_candidate_answers_copies_that_nobody_sees(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    policy = {"labels": _LABELS, "split": [{"label": "stable", "percent": 100}]}
    edit(models, connection, {**policy, "shadow": {"label": "canary", "percent": 100}})
    before = compared(server, "colours")
    reply = connection.classify(_RED, _RED, flat(0, 255, 0), model="colours")
    assert reply.version == 1
    assert infer(connection).model_version == "1"
    # The second version answers with another colour, and with other tensors.
    wait_until(lambda: compared(server, "colours") == (before[0] + 4, before[1]), "four copies")
    # What is for the candidate itself is not copied, nor counted among its requests.
    assert told_version(connection, version_label="canary") == 2

    assert connection.detect(_RED, model="colour-detector").version == 1
    assert infer(connection, "colour-detector").model_version == "1"
    wait_until(lambda: compared(server, "colour-detector") == (2, 2), "two copies")
    for mask_format in (pb.MASK_FORMAT_PNG, pb.MASK_FORMAT_COCO_RLE, pb.MASK_FORMAT_RAW):
        assert connection.segment(_RED, model="colour-segmenter", mask_format=mask_format).version == 1
    wait_until(lambda: compared(server, "colour-segmenter") == (3, 3), "three copies")
    assert compared(server, "colours") == (before[0] + 4, before[1])
    page = MetricsPage(server.http_url)
    assert not page.find("retinue_requests_total", model="colour-segmenter", version="2")

    # Of a model that goes, what was counted of it as a candidate goes, too.
    edit(models, connection, {"list": {"versions": [1]}})
    wait_until(
        lambda: (
            not MetricsPage(server.http_url).find(
                "retinue_shadow_images_total", candidate="2", model="colours"
            )
        ),
        "its metrics to go",
    )


def test_a_server_whose_only_model_has_a_broken_policy_says_so(tmp_path: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path, "colours")
    (bundle.parent / "serving.json").write_text('{"latest": 0}')
    server = ServerProcess(tmp_path)
    try:
        assert server.wait() == 2
    finally:
        server.close()
    assert server.stderr_lines[-1] == (
        "retinue-server: none of the bundles can be served: model 'colours': serving.json: field `latest` must be at "
        "least 1, or left out for all versions."
    )


@pytest.mark.slow
def test_a_label_is_promoted_where_the_server_can_load_it(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    models.mkdir()
    elsewhere.mkdir()
    for version in (1, 2, 3):
        living_bundles.put(models, "colours", version)
    (models / "colours" / "3" / "model.onnx").write_bytes(b"no model")
    write(models, "colours", {"latest": 1, "labels": {"stable": 1}})
    with (
        running_server(
            models, "--provider", "cpu", "--model-control", "explicit", "--load-models", "all"
        ) as server,
        connected(server.grpc_address) as connection,
    ):
        assert told_version(connection, version_label="stable") == 1

        def promote(version: int, folder: Path = models) -> Any:
            told = ["models", "promote", "colours", str(version), "--models", str(folder)]
            return CliRunner().invoke(app, [*told, "--server", server.grpc_address])

        assert promote(3).exit_code == 2
        assert told_version(connection, version_label="stable") == 1
        assert json.loads((models / "colours" / "serving.json").read_text())["labels"] == {"stable": 1}
        living_bundles.put(models, "colours", 3)
        promoted = promote(3)
        assert (promoted.exit_code, promoted.stdout) == (
            0,
            f"stable of colours is version 3; it was 1.\n{server.grpc_address} has taken it up.\n",
        )
        assert told_version(connection, version_label="stable") == 3
        # One that is left out holds up no other.
        write(models, "colours", {"labels": {"stable": 3}})
        (models / "colours" / "1" / "model.onnx").write_bytes(b"no model")
        done = promote(2)
        assert done.exit_code == 0
        assert f"{server.grpc_address} has taken it up, but: " in done.stdout
        assert "version 1: " in done.stdout
        assert told_version(connection, version_label="stable") == 2
        living_bundles.put(models, "colours", 1)
        living_bundles.put(elsewhere, "colours", 3)
        write(elsewhere, "colours", {"labels": {"stable": 1}})
        missed = promote(3, elsewhere)
        assert (missed.exit_code, missed.stdout) == (2, "")
        assert "it serves another folder than that of" in missed.stderr
        assert json.loads((elsewhere / "colours" / "serving.json").read_text()) == {"labels": {"stable": 1}}
        assert server.terminate() == 0


@pytest.mark.slow
def test_a_server_that_watches_takes_a_promotion_up_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models, elsewhere):
        folder.mkdir()
        living_bundles.put(folder, "colours", 1)
    with running_server(models, "--provider", "cpu", "--model-control", "watch") as server:

        def promote(folder: Path, version: int) -> Any:
            told = ["models", "promote", "colours", str(version), "--models", str(folder)]
            return CliRunner().invoke(app, [*told, "--server", server.grpc_address])

        promoted = promote(models, 1)
        assert promoted.exit_code == 0
        new, taken_up = promoted.stdout.splitlines()
        assert new.startswith("stable is new: ")
        assert taken_up == f"{server.grpc_address} watches its models folder and has taken it up."
        with connected(server.grpc_address) as connection:
            assert told_version(connection, version_label="stable") == 1
        # The edit is right, and perhaps somebody takes it up.
        monkeypatch.setattr(_promote, "_MOST_WAIT_SECONDS", 0.5)
        living_bundles.put(elsewhere, "colours", 2)
        missed = promote(elsewhere, 2)
        assert (missed.exit_code, "does not have it yet" in missed.stderr) == (1, True)
        assert json.loads((elsewhere / "colours" / "serving.json").read_text()) == {"labels": {"stable": 2}}
        assert server.terminate() == 0


@pytest.mark.slow
def test_front_ends_keep_the_policy_that_they_start_with(models: Path, tmp_path: Path) -> None:
    write(
        models,
        "colours",
        {
            "labels": _LABELS,
            "split": _SPLIT,
            "sticky_key": "user-id",
            "shadow": {"version": 2, "percent": 100},
        },
    )
    with running_server(models, "--provider", "cpu", "--workers", "2") as server:
        by_user: dict[str, set[int]] = {}
        for _ in range(4):
            # Each connection is one process's.
            with connected(server.grpc_address) as connection:
                assert dict(connection.get_model("colours").serving.labels) == _LABELS
                assert told_version(connection, version_label="canary") == 2
                for user in _USERS[:10]:
                    by_user.setdefault(user, set()).add(told_version(connection, user))
        assert all(len(versions) == 1 for versions in by_user.values())
        stable = sum(versions == {1} for versions in by_user.values())
        # A copy makes way where a machine has more to do.
        wait_until(
            lambda: sum(outcomes(server, "colours", "compared", "dropped")) == 4 * stable, "the copies to end"
        )
        assert compared(server, "colours")[1] == 0
        assert outcomes(server, "colours", "compared")[0] > 0
        assert server.terminate() == 0
