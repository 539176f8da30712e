"""Loads and unloads happen in turn, wait for the calls that hold a model, and never take away what works."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.unit.server.lifecycle_bench import Bench, running_bench, served, states

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.repository import BundleFolder
from retinue_server.errors import (
    BundleError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    StartupError,
    UnavailableError,
)
from retinue_server.inventory import ModelState


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path / "models") as bench:
        yield bench


async def test_a_model_is_loaded_and_unloaded_with_all_its_versions(bench: Bench) -> None:
    bench.put("a", 1)
    bench.put("a", 2)
    bench.put("b", 1)
    repository = bench.repository()
    await repository.load("a")
    assert served(repository) == [("a", 2), ("a", 1)] == bench.catalogs[-1]
    # The newest first: most requests want that.
    assert bench.catalogs[0] == [("a", 2)]
    await repository.unload("a")
    assert served(repository) == [] == bench.catalogs[-1]
    assert sorted(bench.forgotten) == [("a", 1), ("a", 2)]
    assert sorted(bench.loader.events[-2:]) == [("unloaded", "a", 1), ("unloaded", "a", 2)]
    # Again.
    await repository.load("a")
    assert served(repository) == [("a", 2), ("a", 1)]


async def test_what_is_served_and_has_not_changed_is_not_loaded_again(bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    bench.put("a", 2)
    await repository.load("a")
    assert [event for event in bench.loader.events if event[0] == "loading"] == [
        ("loading", "a", 1),
        ("loading", "a", 2),
    ]
    assert served(repository) == [("a", 2), ("a", 1)]


async def test_a_load_takes_versions_away_that_are_gone_from_the_disk(bench: Bench) -> None:
    bench.put("a", 1)
    bench.put("a", 2)
    repository = bench.repository()
    await repository.load("a")
    bench.put("a", 1).rename(bench.models / "elsewhere")
    await repository.load("a")
    await bench.until(lambda: bench.forgotten == [("a", 1)])
    assert served(repository) == [("a", 2)]


async def test_of_two_loads_at_once_the_second_waits_and_finds_it_done(bench: Bench) -> None:
    bench.put("a", 1)
    held = bench.hold_back("a", 1)
    repository = bench.repository()
    loads = [asyncio.ensure_future(repository.load("a")) for _ in range(2)]
    await bench.until(lambda: bench.loader.running)
    assert await states(repository) == {("a", 1): ModelState.LOADING}
    assert not any(load.done() for load in loads)
    held.set()
    await asyncio.gather(*loads)
    assert bench.loader.events == [("loading", "a", 1), ("loaded", "a", 1)]


async def test_an_unload_during_a_load_comes_after_it(bench: Bench) -> None:
    bench.put("a", 1)
    held = bench.hold_back("a", 1)
    repository = bench.repository()
    load = asyncio.ensure_future(repository.load("a"))
    await bench.until(lambda: bench.loader.running)
    unload = asyncio.ensure_future(repository.unload("a"))
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(load, unload)
    assert [event[0] for event in bench.loader.events] == ["loading", "loaded", "unloaded"]
    assert bench.catalogs == [[("a", 1)], []]


async def test_a_load_whose_caller_has_left_is_finished(bench: Bench) -> None:
    bench.put("a", 1)
    held = bench.hold_back("a", 1)
    repository = bench.repository()
    load = asyncio.ensure_future(repository.load("a"))
    await bench.until(lambda: bench.loader.running)
    load.cancel()
    await asyncio.wait([load])
    held.set()
    await repository.load("a")
    assert bench.catalogs == [[("a", 1)]]


async def test_a_folder_that_cannot_be_read_takes_nothing_away_and_is_not_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")

    def unreadable(*_: object) -> list[BundleFolder]:
        raise StartupError(f"'{bench.models}' cannot be read: Permission denied.")

    monkeypatch.setattr(ModelsFolder, "all", unreadable)
    assert await states(repository) == {("a", 1): ModelState.READY}
    with capture_logs() as logs, pytest.raises(ModelControlError, match="cannot be read") as refused:
        await repository.load("a")
    assert str(bench.models) in logs[0]["reason"]
    assert str(bench.models) not in refused.value.message
    assert await states(repository) == {("a", 1): ModelState.READY}


async def test_a_refusal_whose_caller_has_left_troubles_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put("a", 1)
    bench.put("b", 1)
    held = bench.hold_back("a", 1)
    repository = bench.repository()
    first = asyncio.ensure_future(repository.load("a"))
    await bench.until(lambda: bench.loader.running)
    calls = [asyncio.ensure_future(call("nothing")) for call in (repository.load, repository.unload)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    with capture_logs() as logs:
        held.set()
        await first
        await repository.load("b")
        # Which is when asyncio tells of errors that nobody has asked for.
        gc.collect()
    assert caplog.records == logs == []


async def test_a_model_is_unloaded_when_no_call_holds_it_any_more(bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    (model,) = repository.catalog.models
    for _ in range(2):
        model.leases.take()
    unload = asyncio.ensure_future(repository.unload("a"))
    await bench.until(lambda: bench.catalogs[-1] == [])
    assert await states(repository) == {("a", 1): ModelState.UNLOADING}
    model.leases.give_back()
    # Loads need not wait for it.
    bench.put("b", 1)
    await repository.load("b")
    assert not unload.done()
    assert ("unloaded", "a", 1) not in bench.loader.events
    assert bench.forgotten == []
    model.leases.give_back()
    await unload
    assert ("unloaded", "a", 1) in bench.loader.events
    assert bench.forgotten == [("a", 1)]
    assert await states(repository) == {("a", 1): ModelState.UNAVAILABLE, ("b", 1): ModelState.READY}


async def test_a_call_that_never_ends_holds_a_model_for_so_long_only(bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository(longest_lease_seconds=0.01)
    await repository.load("a")
    (model,) = repository.catalog.models
    model.leases.take()
    with capture_logs() as logged:
        await repository.unload("a")
    assert [event["event"] for event in logged] == ["model_still_held"]
    assert bench.loader.events[-1] == ("unloaded", "a", 1)
    # But it is counted when it does end, and only then forgotten.
    assert bench.forgotten == []
    model.leases.give_back()
    await bench.until(lambda: bench.forgotten == [("a", 1)])


async def test_a_version_that_is_replaced_keeps_what_was_counted_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BundleFolder, "read", lambda bundle: bundle.model_path.read_text())
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    (before,) = repository.catalog.models
    before.leases.take()
    bench.put("a", 1, "another")
    await repository.load("a")
    (after,) = repository.catalog.models
    assert after is not before
    assert bench.catalogs == [[("a", 1)], [("a", 1)]]
    assert bench.loader.events[-1] == ("loaded", "a", 1)
    before.leases.give_back()
    await bench.until(lambda: bench.loader.events[-1] == ("unloaded", "a", 1))
    assert bench.forgotten == []
    assert (await states(repository))["a", 1] is ModelState.READY


async def test_a_version_that_was_only_touched_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    (before,) = repository.catalog.models
    monkeypatch.setattr(BundleFolder, "read", lambda bundle: before.manifest)
    bench.put("a", 1, "touched")
    await repository.load("a")
    assert repository.catalog.models == [before]
    assert bench.loader.events == [("loading", "a", 1), ("loaded", "a", 1)]


async def test_a_version_that_cannot_be_loaded_takes_none_away_that_works(bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    bad = bench.put("a", 2)
    bench.loader.errors["a", 2] = BundleError(f"{bad}/model.onnx is no model.", reason="BUNDLE_INVALID")
    with capture_logs() as logged, pytest.raises(ModelControlError) as refused:
        await repository.load("a")
    assert refused.value.reason == "BUNDLE_INVALID"
    assert (
        refused.value.message == "model 'a' cannot be loaded as a whole: version 2: model.onnx is no model."
    )
    assert [event["event"] for event in logged] == ["model_refused"]
    assert repository.catalog.get("a").version == 1
    assert repository.catalog.failures["a", 2].message == "model.onnx is no model."
    ready, failed = await repository.index()
    assert (ready.version, ready.state, ready.reason) == (1, ModelState.READY, "")
    assert (failed.version, failed.state) == (2, ModelState.UNAVAILABLE)
    assert failed.reason == "model.onnx is no model."
    # A call tries it again.
    del bench.loader.errors["a", 2]
    await repository.load("a")
    assert repository.catalog.get("a").version == 2
    assert not repository.catalog.failures


async def test_a_version_that_is_replaced_by_a_broken_one_goes_on_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BundleFolder, "read", lambda bundle: bundle.model_path.read_text())
    bench.put("a", 1)
    repository = bench.repository()
    await repository.load("a")
    (before,) = repository.catalog.models
    bench.put("a", 1, "broken")
    bench.loader.errors["a", 1] = BundleError("model.onnx is no model.")
    with pytest.raises(ModelControlError):
        await repository.load("a")
    assert repository.catalog.models == [before]
    (entry,) = await repository.index()
    assert (entry.state, entry.reason) == (ModelState.READY, "model.onnx is no model.")


async def test_a_bundle_that_breaks_the_loader_is_refused_like_others(bench: Bench) -> None:
    bench.put("a", 1)
    bench.loader.errors["a", 1] = KeyError("a secret")
    repository = bench.repository()
    with capture_logs() as logged, pytest.raises(ModelControlError) as refused:
        await repository.load("a")
    assert "secret" not in refused.value.message
    assert logged[0]["error_id"] in refused.value.message


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "a/../b", "/etc", "a/1", ".hidden", "a\n", "ä", "a" * 129]
)
async def test_what_is_no_name_is_refused(name: str, bench: Bench) -> None:
    repository = bench.repository()
    for call in (repository.load, repository.unload):
        with pytest.raises(InvalidRequestError) as refused:
            await call(name)
        assert refused.value.reason == "MODEL_NAME_INVALID"


async def test_a_name_of_nothing_is_not_found(bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository()
    for call in (repository.load, repository.unload):
        with pytest.raises(ModelNotFoundError, match="no bundle of 'b'"):
            await call("b")
    # That of a model that is only not served is known.
    await repository.unload("a")
    # What is served stays, where there is nothing to load in its place.
    await repository.load("a")
    (bench.models / "a").rename(bench.models.parent / "elsewhere")
    with pytest.raises(ModelNotFoundError):
        await repository.load("a")
    assert served(repository) == [("a", 1)]
    await repository.unload("a")
    with pytest.raises(ModelNotFoundError):
        await repository.unload("a")


@pytest.mark.parametrize("control", ["none", "watch"])
async def test_calls_load_nothing_where_they_do_not_control_the_models(control: str, bench: Bench) -> None:
    bench.put("a", 1)
    repository = bench.repository(control)
    for call in (repository.load, repository.unload):
        with pytest.raises(ModelControlError, match=f"--model-control {control}") as refused:
            await call("a")
        assert refused.value.reason == "MODEL_CONTROL_OFF"


@pytest.mark.parametrize(
    ("control", "load_models", "expected"),
    [
        ("none", "", ["a", "b", "c"]),
        ("watch", "", ["a", "b", "c"]),
        ("explicit", "", []),
        ("explicit", "b,a", ["a", "b"]),
        ("explicit", "all", ["a", "b", "c"]),
    ],
)
async def test_a_server_starts_with_what_it_is_told(
    control: str, load_models: str, expected: list[str], bench: Bench
) -> None:
    for name in "abc":
        bench.put(name, 1)
    repository = bench.repository(control)
    catalog = await repository.start(load_models, lambda: False)
    assert [model.name for model in catalog.models] == expected
    assert catalog is repository.catalog
    # Whoever starts it publishes it.
    assert bench.catalogs == []


async def test_only_where_models_come_later_a_server_starts_without_any(bench: Bench) -> None:
    with pytest.raises(StartupError, match="holds no bundle"):
        await bench.repository("none").start("", lambda: False)
    for control in ("watch", "explicit"):
        assert (await bench.repository(control).start("", lambda: False)).models == []
    with pytest.raises(StartupError, match="--load-models names 'b'"):
        await bench.repository("explicit").start("b", lambda: False)


async def test_what_did_not_fit_is_tried_again_when_there_is_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelsFolder, "look_seconds", 0.001)
    old = bench.put("a", 1)
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    bench.loader.errors["a", 2] = BundleError("it does not fit.", reason="MEMORY_LIMIT")
    bench.put("a", 2)
    repository.follow()
    await bench.until(lambda: ("a", 2) in repository.catalog.failures)
    del bench.loader.errors["a", 2]
    old.rename(bench.models.parent / "elsewhere")
    await bench.until(lambda: served(repository) == [("a", 2)])
    assert bench.loader.events.count(("loading", "a", 2)) == 2


async def test_at_the_end_all_goes_and_nothing_more_comes(bench: Bench) -> None:
    for name in "abc":
        bench.put(name, 1)
    repository = bench.repository()
    await repository.load("a")
    await repository.load("b")
    for model in repository.catalog.models:
        model.leases.take()
    unload = asyncio.ensure_future(repository.unload("a"))
    await bench.until(lambda: bench.catalogs[-1] == [("b", 1)])
    held = bench.hold_back("c", 1)
    load = asyncio.ensure_future(repository.load("c"))
    await bench.until(lambda: bench.loader.running)
    closing = asyncio.ensure_future(repository.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await repository.load("b")
    held.set()
    await asyncio.gather(closing, load, unload)
    # What was being loaded, too.
    assert sorted(event for event in bench.loader.events if event[0] == "unloaded") == [
        ("unloaded", name, 1) for name in "abc"
    ]
