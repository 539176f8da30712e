"""With --model-control watch, models come, change and go while requests are answered."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc
from tests import colour_bundles, living_bundles
from tests.calls import Connection, connected, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_CALLERS = 8
_RED = flat(255, 0, 0)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with version 1 of one model."""
    folder = tmp_path / "models"
    folder.mkdir()
    living_bundles.put(folder, "colours", 1)
    return folder


@pytest.fixture
def server(models: Path) -> Iterator[ServerProcess]:
    """A server that follows the folder."""
    with running_server(models, "--provider", "cpu", "--model-control", "watch") as process:
        yield process
        assert process.terminate() == 0


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as channel:
        yield channel


def versions(connection: Connection) -> list[int]:
    """Those that are served of all models, the newest first."""
    return [model.version for model in connection.list_models()]


def wait_for(connection: Connection, *wanted: int) -> None:
    wait_until(lambda: versions(connection) == list(wanted), f"versions {wanted}", timeout_seconds=10)


def health(connection: Connection, model: str) -> int:
    return connection.health.Check(health_pb2.HealthCheckRequest(service=model)).status


def told_label(connection: Connection, **request: object) -> str:
    reply = connection.classify(_RED, model="colours", **request)
    return reply.outcomes[0].result.classes[0].label


class Traffic:
    """Callers that ask one model again and again, each as soon as it is answered, until they are told to stop.

    Attributes:
        answers: Of which versions they had answers, and how many.
    """

    def __init__(self, address: str) -> None:
        self.answers: dict[int, int] = {}
        self._address = address
        self._stop = False

    async def __aenter__(self) -> "Traffic":
        self._callers = [asyncio.ensure_future(self._call()) for _ in range(_CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._callers)

    async def answered_by(self, version: int) -> None:
        """Waits for an answer of that version; fails where a request has."""
        async with asyncio.timeout(20):
            while version not in self.answers:
                for caller in self._callers:
                    assert not caller.done() or caller.exception() is None, caller.exception()
                await asyncio.sleep(0.02)

    async def _call(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            request = pb.ClassifyRequest(images=[_RED] * 3, model="colours")
            while not self._stop:
                reply = await stub.Classify(request, timeout=30)
                labels = {outcome.result.classes[0].label for outcome in reply.outcomes}
                # All of it is the answer of the version that it names: its labels, and what its graph computes.
                (label,) = labels
                colour, _, version = label.partition("-")
                assert int(version) == reply.version
                assert (colour == "red") == (reply.version % 2 == 1)
                self.answers[reply.version] = self.answers.get(reply.version, 0) + 1


@pytest.mark.parametrize("changes", [8, pytest.param(50, marks=pytest.mark.slow)])
async def test_no_request_fails_while_each_version_takes_the_place_of_the_one_before(
    changes: int, models: Path, server: ServerProcess
) -> None:
    async with Traffic(server.grpc_address) as traffic:
        await traffic.answered_by(1)
        for version in range(2, changes + 2):
            living_bundles.put(models, "colours", version, inverted=version % 2 == 0)
            living_bundles.take_away(models, "colours", version - 1)
            await traffic.answered_by(version)
    assert sorted(traffic.answers) == list(range(1, changes + 2))


async def test_no_request_fails_while_a_version_is_replaced_in_its_place(
    models: Path, server: ServerProcess
) -> None:
    """Its number stays, and so its answers may be of the graph before or after, but of one at a time."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.grpc_address, options=options) as channel:
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        request = pb.ClassifyRequest(images=[_RED] * 3, model="colours")

        async def ask_until(inverted: bool) -> None:
            while True:
                reply = await stub.Classify(request, timeout=30)
                (red,) = {outcome.result.classes[0].label.startswith("red") for outcome in reply.outcomes}
                if red != inverted:
                    return

        for inverted in (True, False, True):
            living_bundles.put(models, "colours", 1, inverted=inverted)
            async with asyncio.timeout(20):
                await asyncio.gather(*(ask_until(inverted) for _ in range(_CALLERS)))


def test_the_health_and_the_metrics_of_a_model_follow_it(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    living_bundles.put(models, "more-colours", 5)
    wait_until(lambda: len(connection.list_models()) == 2, "a model that has come")
    assert health(connection, "more-colours") == _SERVING
    connection.classify(_RED, model="more-colours")
    page = MetricsPage(server.http_url)
    assert page.value("retinue_requests_total", method="Classify", model="more-colours", version="5") == 1
    assert page.value("retinue_model_info", model="more-colours", version="5") == 1

    living_bundles.take_all_away(models, "more-colours")
    wait_for(connection, 1)
    wait_until(lambda: health(connection, "more-colours") == _NOT_SERVING, "its health")
    assert health(connection, "colours") == _SERVING
    assert health(connection, "") == _SERVING
    assert refused(lambda: connection.classify(_RED, model="more-colours")).code == "NOT_FOUND"
    wait_until(lambda: "more-colours" not in MetricsPage(server.http_url).text, "its metrics to go")


def test_a_version_that_cannot_be_loaded_takes_none_away_that_works(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    broken = colour_bundles.classifier(models.parent / "aside", "colours", 2)
    (broken / "model.onnx").write_bytes(b"no model")
    broken.rename(models / "colours" / "2")
    server.wait_for_event("model_refused")
    assert versions(connection) == [1]
    assert told_label(connection) == "red-1"
    assert health(connection, "colours") == _SERVING
    refusal = refused(lambda: connection.classify(_RED, model="colours", version=2))
    assert refusal.code == "NOT_FOUND"
    assert "version 2 was found but cannot be served: model.onnx has SHA-256" in refusal.message
    page = MetricsPage(server.http_url)
    assert page.value("retinue_model_load_failed", model="colours", version="2") == 1

    # It is not tried again at every look, but when it is put right.
    living_bundles.put(models, "colours", 3)
    wait_for(connection, 3, 1)
    assert [event["event"] for event in server.events].count("model_refused") == 1
    living_bundles.put(models, "colours", 2)
    wait_for(connection, 3, 2, 1)
    assert not MetricsPage(server.http_url).find("retinue_model_load_failed")


def test_a_bundle_that_is_copied_bit_by_bit_is_served_when_it_is_whole(
    models: Path, connection: Connection
) -> None:
    whole = living_bundles.put(models.parent, "colours", 2)
    copy = models / "colours" / "2"
    copy.mkdir()
    for file in ("manifest.json", "model.onnx"):
        content = (whole / file).read_bytes()
        with (copy / file).open("wb") as written:
            for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                written.write(half)
                written.flush()
                # A look may come now.
                assert versions(connection) == [1]
    wait_for(connection, 2, 1)
    assert told_label(connection) == "red-2"


def test_what_is_no_bundle_of_this_folder_is_never_served(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    outside = living_bundles.put(models.parent, "colours", 2)
    (models / "colours" / "2").symlink_to(outside)
    (models / "colours" / "latest").symlink_to("1")
    (models / "colours" / "03").symlink_to("1")
    assert "leads out of the models folder" in server.wait_for_event("model_refused")["reason"]
    living_bundles.put(models, "colours", 4)
    wait_for(connection, 4, 1)
    assert refused(lambda: connection.get_model("colours", 2)).code == "NOT_FOUND"


def test_a_server_may_start_without_a_model_and_lose_its_last(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with (
        running_server(models, "--provider", "cpu", "--model-control", "watch") as server,
        connected(server.grpc_address) as connection,
    ):
        assert versions(connection) == []
        living_bundles.put(models, "colours", 1)
        wait_for(connection, 1)
        living_bundles.take_away(models, "colours", 1)
        wait_for(connection)
        assert health(connection, "") == _SERVING
        # A volume that is gone for a moment takes nothing away.
        living_bundles.put(models, "colours", 2)
        wait_for(connection, 2)
        models.rename(tmp_path / "unmounted")
        server.wait_for_event("models_unreadable")
        assert told_label(connection) == "red-2"
        assert server.terminate() == 0
    assert "No model is loaded yet." in server.stdout


def test_a_folder_that_cannot_be_read_keeps_what_it_had_and_the_others_are_followed(
    models: Path, server: ServerProcess, connection: Connection
) -> None:
    (models / "colours").rename(models.parent / "elsewhere")
    # It leads to itself.
    (models / "colours").symlink_to(models / "colours")
    wait_until(
        lambda: bool(MetricsPage(server.http_url).find("retinue_model_load_failed", model="colours")),
        "the folder to be told of",
    )
    living_bundles.put(models, "others", 1)
    wait_until(
        lambda: sorted(model.name for model in connection.list_models()) == ["colours", "others"], "the other"
    )
    assert told_label(connection)
    assert [event["model"] for event in server.events if event["event"] == "model_unreadable"] == ["colours"]
    (models / "colours").unlink()
    (models.parent / "elsewhere").rename(models / "colours")
    wait_until(
        lambda: not MetricsPage(server.http_url).find("retinue_model_load_failed", model="colours"),
        "the folder to be read again",
    )
