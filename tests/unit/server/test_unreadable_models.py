"""A folder that cannot be read, and a change that breaks the server, cost no other model anything."""

import errno
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.server.lifecycle_bench import Bench, Key, running_bench, served, states

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.errors import (
    BundleError,
    ModelNotFoundError,
)
from retinue_server.inventory import ModelState
from retinue_server.lifecycle import Repository


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path / "models") as bench:
        yield bench


class Denied:
    """Folders that nobody may look into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: set[Path] = set()
        look = Path.iterdir

        def iterdir(path: Path) -> Iterator[Path]:
            if path in self.paths:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return look(path)

        monkeypatch.setattr(Path, "iterdir", iterdir)


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> Denied:
    monkeypatch.setattr(ModelsFolder, "look_seconds", 0.001)
    return Denied(monkeypatch)


async def reasons(repository: Repository) -> dict[Key, str]:
    return {(entry.name, entry.version): entry.reason for entry in await repository.index()}


async def test_a_folder_that_cannot_be_read_is_told_of_once_and_others_are_followed(
    bench: Bench, denied: Denied
) -> None:
    bench.put("a", 1)
    bench.put("b", 1)
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    repository.follow()
    with capture_logs() as events:
        denied.paths = {bench.models / "a"}
        await bench.until(lambda: repository.catalog.failures)
        bench.put("a", 2)
        bench.put("b", 2)
        await bench.until(lambda: served(repository)[:1] == [("a", 1)] and ("b", 2) in served(repository))
        bench.put("c", 1)
        await bench.until(lambda: ("c", 1) in served(repository))
    assert [event["model"] for event in events if event["event"] == "model_unreadable"] == ["a"]
    assert not [event for event in events if event["event"] == "models_unreadable"]
    assert served(repository) == [("a", 1), ("b", 2), ("b", 1), ("c", 1)]
    assert (await states(repository))["a", 1] is ModelState.READY
    assert (await reasons(repository))["a", 1] == "its folder cannot be read."
    denied.paths = set()
    await bench.until(lambda: ("a", 2) in served(repository))
    assert set((await reasons(repository)).values()) == {""}


async def test_one_that_could_not_be_read_at_the_start_is_told_of_and_comes_later(
    bench: Bench, denied: Denied
) -> None:
    bench.put("a", 1)
    bench.put("b", 1)
    denied.paths = {bench.models / "a"}
    repository = bench.repository("watch")
    with capture_logs() as events:
        await repository.start("", lambda: False)
    assert [event["model"] for event in events if event["event"] == "model_unreadable"] == ["a"]
    assert served(repository) == [("b", 1)]
    assert await reasons(repository) == {("a", 0): "its folder cannot be read.", ("b", 1): ""}
    with pytest.raises(ModelNotFoundError, match="model 'a' was found but cannot be served: its folder"):
        repository.catalog.get("a")
    repository.follow()
    denied.paths = set()
    await bench.until(lambda: ("a", 1) in served(repository))
    assert await reasons(repository) == {("a", 1): "", ("b", 1): ""}


async def test_a_file_in_the_place_of_a_folder_takes_nothing_away(bench: Bench, denied: Denied) -> None:
    folder = bench.put("a", 1).parent
    (bench.models / "notes").touch()
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    repository.follow()
    with capture_logs() as events:
        folder.rename(bench.models.parent / "away")
        folder.touch()
        await bench.until(lambda: repository.catalog.failures)
        bench.put("b", 1)
        await bench.until(lambda: ("b", 1) in served(repository))
    assert [event["model"] for event in events if event["event"] == "model_unreadable"] == ["a"]
    assert served(repository) == [("a", 1), ("b", 1)]
    folder.unlink()
    await bench.until(lambda: served(repository) == [("b", 1)])
    assert await reasons(repository) == {("b", 1): ""}


async def test_what_was_refused_before_its_folder_could_not_be_read_stays_refused(
    bench: Bench, denied: Denied
) -> None:
    bench.put("a", 1)
    bench.put("b", 1)
    bench.loader.errors["a", 1] = BundleError("it is broken.")
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    repository.follow()
    denied.paths = {bench.models / "a"}
    with capture_logs() as events:
        await bench.until(lambda: events)
    denied.paths = set()
    bench.put("b", 2)
    await bench.until(lambda: ("b", 2) in served(repository))
    assert (await reasons(repository))["a", 1] == "it is broken."


async def test_a_change_that_breaks_the_server_keeps_it_from_following_no_other(
    bench: Bench, denied: Denied, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    policy = ModelsFolder.policy
    broken = {"a"}

    def read(folder: ModelsFolder, name: str) -> Any:
        if name in broken:
            raise RuntimeError("broken")
        return policy(folder, name)

    monkeypatch.setattr(ModelsFolder, "policy", read)
    repository.follow()
    with capture_logs() as events:
        bench.put("a", 1)
        bench.put("b", 1)
        await bench.until(lambda: served(repository) == [("b", 1)])
    assert "watch_failed" in {event["event"] for event in events}
