"""A model's serving policy is taken up as a whole when all that it names is served, and not before."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.server.lifecycle_bench import Bench, Key

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.repository import BundleFolder
from retinue_server.bundle.serving import parse_config
from retinue_server.errors import BundleError, ModelControlError, ModelNotFoundError, StartupError
from retinue_server.lifecycle import Repository


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(ModelsFolder, "look_seconds", 0.001)
    bench = Bench(tmp_path / "models")
    bench.models.mkdir()
    for version in (1, 2, 3):
        bench.put("a", version)
    yield bench
    await bench.close()


def versions(repository: Repository) -> list[int]:
    return [model.version for model in repository.catalog.models]


def labels(repository: Repository) -> dict[str, int]:
    return dict(repository.catalog.policy("a").labels)


async def reasons(repository: Repository) -> dict[Key, str]:
    return {(entry.name, entry.version): entry.reason for entry in await repository.index()}


async def watched(bench: Bench) -> Repository:
    repository = bench.repository("watch")
    await repository.start("", lambda: False)
    repository.follow()
    return repository


@pytest.mark.parametrize("control", ["none", "watch", "explicit"])
async def test_a_server_starts_with_the_versions_that_the_policy_chooses(control: str, bench: Bench) -> None:
    bench.policy("a", {"latest": 2})
    repository = bench.repository(control)
    await repository.start("a" if control == "explicit" else "", lambda: False)
    assert versions(repository) == [3, 2]
    assert (await reasons(repository))["a", 1] == "it is not loaded."


async def test_an_edit_alone_is_noticed_and_loads_nothing_again(bench: Bench) -> None:
    repository = await watched(bench)
    before = repository.catalog.models
    bench.policy("a", {"labels": {"stable": 2}})
    await bench.until(lambda: labels(repository) == {"stable": 2})
    bench.policy("a", {"labels": {"stable": 3}})
    await bench.until(lambda: labels(repository) == {"stable": 3})
    bench.policy("a", None)
    await bench.until(lambda: labels(repository) == {})
    assert repository.catalog.models == before
    assert [event for event in bench.loader.events if event[0] != "loading"] == [
        ("loaded", "a", n) for n in (1, 2, 3)
    ]
    assert len(bench.catalogs) == 3
    bench.policy("a", {"list": {"versions": [2]}})
    await bench.until(lambda: len(bench.forgotten) == 2)
    assert versions(repository) == [2]


async def test_a_change_of_several_versions_is_one_catalog(bench: Bench) -> None:
    bench.policy("a", {"list": {"versions": [1]}})
    repository = bench.repository()
    await repository.load("a")
    bench.policy("a", {"list": {"versions": [2, 3]}, "labels": {"stable": 2}})
    await repository.load("a")
    assert bench.catalogs == [[("a", 1)], [("a", 3), ("a", 2)]]
    assert labels(repository) == {"stable": 2}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "serving.json"),
        ({"latest": 0}, "serving.json: field `latest`"),
        ({"labels": {"stable": 9}}, "names version 9, which is not in the models folder."),
        ({"labels": {"stable": 4}}, "names version 4, which cannot be served: it is torn."),
        ({"list": {"versions": [8, 9]}}, "chooses version 8, 9, and the models folder has none of these."),
        ({"list": {"versions": [4]}}, "chooses only what cannot be served: it is torn."),
    ],
)
async def test_a_policy_that_does_not_hold_takes_nothing_away(content: Any, named: str, bench: Bench) -> None:
    bench.policy("a", {"latest": 1, "labels": {"stable": 2}})
    repository = bench.repository()
    await repository.load("a")
    bench.put("a", 4)
    bench.loader.errors["a", 4] = BundleError("it is torn.", reason="BUNDLE_INVALID")
    bench.policy("a", content)
    with capture_logs() as logged:
        for _ in range(2):
            with pytest.raises(ModelControlError) as refused:
                await repository.load("a")
            assert named in refused.value.message
    assert versions(repository) == [3, 2]
    assert labels(repository) == {"stable": 2}
    assert named in repository.catalog.policy_failures["a"].message
    assert named in (await reasons(repository))["a", 2]
    assert [event["model"] for event in logged if event["event"] == "serving_policy_refused"] == ["a"]
    # It is put right.
    bench.policy("a", {"labels": {"stable": 1}})
    with pytest.raises(ModelControlError, match="version 4: it is torn"):
        await repository.load("a")
    assert labels(repository) == {"stable": 1}
    assert not repository.catalog.policy_failures


@pytest.mark.parametrize("control", ["none", "explicit"])
async def test_of_the_newest_those_count_that_can_be_served(control: str, bench: Bench) -> None:
    bench.policy("a", {"latest": 1})
    bench.loader.errors["a", 3] = bench.loader.errors["a", 2] = BundleError("it is torn.")
    repository = bench.repository(control)
    await repository.start("a" if control == "explicit" else "", lambda: False)
    assert versions(repository) == [1]
    assert set(repository.catalog.failures) == {("a", 2), ("a", 3)}
    if control == "explicit":
        del bench.loader.errors["a", 2]
        with pytest.raises(ModelControlError):
            await repository.load("a")
        assert versions(repository) == [2]
        assert set(repository.catalog.failures) == {("a", 3)}


async def test_a_server_of_one_model_does_not_start_where_nothing_of_it_can_be_served(bench: Bench) -> None:
    bench.policy("a", {"latest": 1})
    for version in (1, 2, 3):
        bench.loader.errors["a", version] = BundleError("it is torn.")
    with pytest.raises(StartupError, match="none of the bundles can be served: it is torn"):
        await bench.repository("none").start("", lambda: False)


async def test_what_is_loaded_for_a_policy_that_cannot_be_met_is_never_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BundleFolder, "read", lambda bundle: bundle.model_path.read_text())
    bench.policy("a", {"list": {"versions": [1]}})
    repository = bench.repository()
    await repository.load("a")
    # The version that is served changes, too.
    bench.put("a", 1, "another")
    bench.loader.errors["a", 2] = BundleError("it is torn.")
    bench.policy("a", {"list": {"versions": [2, 3]}, "labels": {"stable": 2}})
    with pytest.raises(ModelControlError, match="names version 2, which cannot be served: it is torn"):
        await repository.load("a")
    assert ("loaded", "a", 3) in bench.loader.events
    assert {tuple(catalog) for catalog in bench.catalogs} == {(("a", 1),)}
    await bench.until(lambda: ("unloaded", "a", 3) in bench.loader.events)
    assert bench.loader.events.count(("unloaded", "a", 1)) == 1


async def test_a_policy_waits_for_the_versions_that_it_names(bench: Bench) -> None:
    bench.policy("a", {"latest": 1, "labels": {"stable": 3}})
    repository = await watched(bench)
    bench.policy("a", {"latest": 1, "labels": {"stable": 4}})
    await bench.until(lambda: repository.catalog.policy_failures)
    assert (versions(repository), labels(repository)) == ([3], {"stable": 3})
    bench.put("a", 4)
    await bench.until(lambda: labels(repository) == {"stable": 4})
    assert versions(repository) == [4]
    assert not repository.catalog.policy_failures


async def test_at_the_start_a_model_whose_policy_does_not_hold_is_not_served(bench: Bench) -> None:
    bench.put("b", 1)
    bench.policy("a", "{")
    repository = await watched(bench)
    assert [(model.name, model.version) for model in repository.catalog.models] == [("b", 1)]
    with pytest.raises(ModelNotFoundError, match=r"cannot be served: serving\.json"):
        repository.catalog.pick("a")
    assert set(repository.catalog.failures) == {("a", 1), ("a", 2), ("a", 3)}
    bench.policy("a", {"latest": 1})
    await bench.until(lambda: len(repository.catalog.models) == 2)
    assert repository.catalog.pick("a").version == 3
    assert not repository.catalog.failures


async def test_at_the_start_what_works_of_a_policy_is_better_than_nothing(bench: Bench) -> None:
    bench.loader.errors["a", 3] = BundleError("it is torn.")
    bench.policy("a", {"split": [{"version": 3, "percent": 90}, {"version": 1, "percent": 10}]})
    with capture_logs() as logged:
        repository = await watched(bench)
    assert repository.catalog.pick("a").version == 1
    assert [(event["event"], event["version"]) for event in logged] == [("serving_version_missing", 3)]


async def test_where_a_version_goes_its_share_goes_to_the_others(bench: Bench) -> None:
    bench.policy(
        "a",
        {
            "labels": {"canary": 3},
            "split": [{"label": "canary", "percent": 99}, {"version": 1, "percent": 1}],
        },
    )
    repository = await watched(bench)
    (bench.models / "a" / "3").rename(bench.models.parent / "elsewhere")
    await bench.until(lambda: versions(repository) == [2, 1])
    assert repository.catalog.pick("a").version == 1
    with pytest.raises(ModelNotFoundError, match="version 3, which is not served"):
        repository.catalog.pick("a", "canary")
    assert repository.catalog.missing() == [("a", 3)]


async def test_a_model_that_goes_takes_its_policy_along(bench: Bench) -> None:
    bench.policy("a", {"latest": 1})
    with capture_logs() as logged:
        repository = await watched(bench)
        (bench.models / "a").rename(bench.models.parent / "elsewhere")
        await bench.until(lambda: not repository.catalog.models)
        bench.put("a", 1)
        bench.put("a", 2)
        await bench.until(lambda: versions(repository) == [2, 1])
    assert logged == []
    assert not repository.catalog.policy_failures


async def test_a_call_may_bring_its_own_policy_which_holds_until_the_next(bench: Bench) -> None:
    bench.policy("a", {"latest": 1})
    repository = bench.repository()
    await repository.load("a", parse_config('{"list": {"versions": [1, 2]}}'))
    assert versions(repository) == [2, 1]
    with pytest.raises(ModelControlError, match="names version 7"):
        await repository.load("a", parse_config('{"labels": {"stable": 7}}'))
    assert versions(repository) == [2, 1]
    await repository.load("a")
    assert versions(repository) == [3]
    await repository.unload("a")
    assert repository.catalog.models == []
    with pytest.raises(ModelControlError, match="chooses version 9, and the models folder has none"):
        await repository.load("a", parse_config('{"list": {"versions": [9]}}'))
    assert repository.catalog.models == []
    # Nothing is left of it to be compared with.
    bench.policy("a", {"labels": {"stable": 7}})
    await repository.load("a")
    assert versions(repository) == [3, 2, 1]


async def test_what_does_not_fit_beside_the_policy_before_is_tried_when_there_is_room(bench: Bench) -> None:
    bench.put("b", 1)
    bench.policy("a", {"list": {"versions": [1]}})
    repository = await watched(bench)
    bench.loader.errors["a", 3] = BundleError("it does not fit.", reason="MEMORY_LIMIT")
    bench.policy("a", {"list": {"versions": [2, 3]}, "labels": {"stable": 3}})
    await bench.until(lambda: repository.catalog.policy_failures)
    tried = len(bench.loader.events)
    del bench.loader.errors["a", 3]
    (bench.models / "b").rename(bench.models.parent / "elsewhere")
    await bench.until(lambda: versions(repository) == [3, 2])
    assert len(bench.loader.events) > tried


async def test_the_log_says_what_a_new_policy_comes_to(bench: Bench) -> None:
    repository = bench.repository()
    await repository.load("a")
    with capture_logs() as logged:
        bench.policy(
            "a",
            {
                "labels": {"stable": 1, "canary": 3},
                "split": [{"label": "stable", "percent": 90}, {"version": 3, "percent": 10}],
                "shadow": {"label": "canary", "percent": 5},
            },
        )
        await repository.load("a")
        bench.policy("a", {"latest": 2})
        await repository.load("a")
    changes = [event for event in logged if event["event"] == "serving_policy_changed"]
    assert [{key: one[key] for key in one.keys() - {"event", "log_level"}} for one in changes] == [
        {
            "model": "a",
            "versions": [1, 2, 3],
            "labels": {"canary": 3, "stable": 1},
            "split": ["stable=1 90%", "3 10%"],
            "shadow": "canary=3 5%",
        },
        {"model": "a", "versions": [2, 3]},
    ]
