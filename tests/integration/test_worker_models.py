"""Models come, change and go behind several front-ends, while requests are answered through all of them."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from tests import living_bundles
from tests.calls import Connection, connected, flat, refused
from tests.integration.test_serving_policy import write
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

from retinue_client import Client, ModelControlError, ModelNotFoundError

_CALLERS = 8
_SWAPS = 30
_MOST_GROWTH = 1.1
_RED = flat(255, 0, 0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with version 1 of one model."""
    folder = tmp_path / "models"
    folder.mkdir()
    living_bundles.put(folder, "colours", 1)
    return folder


@contextmanager
def serving(models: Path, control: str) -> Iterator[ServerProcess]:
    """A server with two front-ends."""
    chosen = ("--load-models", "all") if control == "explicit" else ()
    arguments = ("--provider", "cpu", "--workers", "2", "--model-control", control, *chosen)
    with running_server(models, *arguments) as server:
        yield server
        assert server.terminate() == 0
        assert [event for event in server.events if event["event"] == "model_still_held"] == []


@contextmanager
def connections(server: ServerProcess) -> Iterator[list[Connection]]:
    """So many that every front-end has some."""
    with ExitStack() as opened:
        yield [opened.enter_context(connected(server.grpc_address)) for _ in range(_CALLERS)]


def own_version(connection: Connection, **options: object) -> int:
    """Which version answers a red image, by what it says; it must be the one that the reply names."""
    reply = connection.classify(_RED, model="colours", **options)
    colour, _, version = reply.outcomes[0].result.classes[0].label.partition("-")
    assert int(version) == reply.version
    assert (colour == "red") == (reply.version == 1)
    return reply.version


@contextmanager
def traffic(
    server: ServerProcess, calls: list[Connection]
) -> Iterator[Callable[[], list[dict[object, int]]]]:
    """Callers that ask again and again until they are told to stop.

    Yields:
        Stops them; returns of each how many answers it had, by their version, and how many refusals, by their code.
    """
    over = threading.Event()

    def call(connection: Connection) -> dict[object, int]:
        had: dict[object, int] = {}
        while not over.is_set():
            try:
                of: object = own_version(connection)
            except grpc.RpcError as error:
                of = error.code()
            had[of] = had.get(of, 0) + 1
        return had

    with ThreadPoolExecutor(len(calls)) as threads, ExitStack() as ending:
        ending.callback(over.set)
        callers: list[Future[dict[object, int]]] = [threads.submit(call, one) for one in calls]

        def stop() -> list[dict[object, int]]:
            over.set()
            return [caller.result() for caller in callers]

        yield stop


def swap(client: Client, models: Path, aside: Path, number: int) -> int:
    """Has versions 1 and 2 change places; returns the one that is served now."""
    going, coming = (1, 2) if number % 2 else (2, 1)
    (aside / str(coming)).rename(models / "colours" / str(coming))
    (models / "colours" / str(going)).rename(aside / str(going))
    client.load_model("colours")
    return coming


@pytest.fixture
def aside(models: Path, tmp_path: Path) -> Path:
    """Where version 2 is that has its turn next."""
    aside = tmp_path / "aside"
    aside.mkdir()
    living_bundles.put(models, "colours", 2, inverted=True).rename(aside / "2")
    return aside


def processes(server: ServerProcess) -> list[psutil.Process]:
    """The engine's, and the front-ends'."""
    engine = psutil.Process(server.process.pid)
    return [engine, *(one for one in engine.children() if "retinue_server.frontend" in one.cmdline())]


def shared_bytes(server: ServerProcess) -> int:
    """What the memory holds that is shared with front-ends."""
    folder = Path(f"/proc/{server.process.pid}/fd")
    held: dict[int, int] = {}
    for descriptor in folder.iterdir():
        try:
            if "retinue-slots" in str(descriptor.readlink()):
                status = descriptor.stat()
                held[status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue
    return sum(held.values())


def mapped(server: ServerProcess) -> int:
    """How often a model's slots are mapped, in all processes."""
    return sum(
        "retinue-slots" in line
        for process in processes(server)
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    )


def all_gone(client: Client) -> bool:
    return all(one.state != "unloading" for one in client.list_versions())


def test_swaps_fail_no_request_and_leave_nothing_behind(models: Path, aside: Path) -> None:
    with (
        serving(models, "explicit") as server,
        connections(server) as calls,
        Client(server.grpc_address) as client,
    ):
        with traffic(server, calls) as stop:
            for number in range(1, _SWAPS + 1):
                coming = swap(client, models, aside, number)
                # Whichever front-end has a connection, it finds what was loaded as soon as that is told.
                assert {one.get_model("colours").version for one in calls} == {coming}
                if number == _SWAPS // 3:
                    first_bytes = server.private_bytes()
            answers = stop()
        for had in answers:
            assert set(had) == {1, 2}
        wait_until(lambda: all_gone(client), "what was replaced to go")
        last_bytes = server.private_bytes()
        assert last_bytes < _MOST_GROWTH * first_bytes
        one_model = 2 * len(processes(server)[1:])
        wait_until(lambda: mapped(server) == one_model, "one model's memory to be all that is mapped")
        for one in calls:
            own_version(one)
        used = shared_bytes(server)
        client.unload_model("colours")
        wait_until(lambda: mapped(server) == 0, "no memory to be mapped")
        assert 0 == shared_bytes(server) < used
        page = MetricsPage(server.http_url)
        assert not page.find("retinue_images_total", model="colours")


@pytest.mark.slow
def test_a_watched_folder_is_followed_by_every_front_end(models: Path) -> None:
    with serving(models, "watch") as server, connections(server) as calls:

        def everywhere(version: int) -> Callable[[], bool]:
            return lambda: all(own_version(one) == version for one in calls)

        assert everywhere(1)()
        living_bundles.put(models, "colours", 2, inverted=True)
        wait_until(everywhere(2), "version 2")
        labels = {"stable": 1, "canary": 2}
        write(models, "colours", {"labels": labels, "split": [{"label": "stable", "percent": 100}]})
        wait_until(everywhere(1), "the labels to be taken up")
        for one in calls:
            assert own_version(one, version_label="canary") == 2
            assert dict(one.get_model("colours").serving.labels) == labels
        (models / "colours" / "serving.json").unlink()
        wait_until(everywhere(2), "the labels to go")
        shutil.rmtree(models / "colours" / "2")
        wait_until(everywhere(1), "version 2 to go")
        living_bundles.put(models, "others", 1)
        wait_until(lambda: len(calls[0].list_models()) == 2, "another model")
        living_bundles.take_all_away(models, "colours")
        wait_until(lambda: len(calls[0].list_models()) == 1, "the first one to go")
        assert {refused(lambda: own_version(one)).code for one in calls} == {"NOT_FOUND"}  # noqa: B023


def test_calls_load_and_unload_through_any_front_end(models: Path) -> None:
    with serving(models, "explicit") as server, connections(server) as calls:
        with ExitStack() as opened:
            clients = [opened.enter_context(Client(server.grpc_address)) for _ in range(4)]
            for client in clients:
                client.unload_model("colours")
                assert {refused(lambda: own_version(one)).code for one in calls} == {"NOT_FOUND"}  # noqa: B023
                assert [one.state for one in client.list_versions()] == ["unavailable"]
                client.load_model("colours")
                assert [one.state for one in client.list_versions()] == ["ready"]
                assert {own_version(one) for one in calls} == {1}
                with pytest.raises(ModelNotFoundError, match="'nobody'"):
                    client.load_model("nobody")
            bundle = living_bundles.put(models, "broken", 1)
            (bundle / "model.onnx").write_bytes(b"no model")
            with pytest.raises(ModelControlError, match="sha256"):
                clients[0].load_model("broken")
        url = f"{server.http_url}/v2/repository"
        assert httpx.post(f"{url}/models/colours/unload", json={}).status_code == 200
        states = {one["name"]: one["state"] for one in httpx.post(f"{url}/index", json={}).json()}
        assert states == {"colours": "UNAVAILABLE", "broken": "UNAVAILABLE"}


def test_a_front_end_that_is_killed_while_models_change_is_in_nobodys_way(models: Path) -> None:
    with serving(models, "watch") as server, connections(server) as calls:

        def everywhere(version: int) -> bool:
            try:
                return all(own_version(one) == version for one in calls)
            except grpc.RpcError as error:
                # The library tells so of connections that broke, and of those it makes anew.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False

        with traffic(server, calls) as stop:
            for going, coming in ((1, 2), (2, 1)):
                before = processes(server)[1:]
                living_bundles.put(models, "colours", coming, inverted=coming == 2)
                if coming == 1:
                    living_bundles.take_away(models, "colours", going)
                before[0].kill()
                wait_until(lambda coming=coming: everywhere(coming), "the change")  # type: ignore[misc]
                wait_until(lambda: len(processes(server)) == 3, "it to be started again")
            answers = stop()
        for had in answers:
            assert set(had) <= {1, 2, grpc.StatusCode.UNAVAILABLE}
            assert had.get(1, 0)
            assert had.get(2, 0)
        wait_until(lambda: everywhere(1), "all connections")
        assert {one.get_model("colours").version for one in calls} == {1}
        wait_until(lambda: mapped(server) == 4, "one model's memory to be all that is mapped")
