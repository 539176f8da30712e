import pytest
from tests.unit.server.served import served_model

from retinue_server.catalog import Catalog
from retinue_server.errors import (
    BundleError,
    InvalidRequestError,
    ModelNotFoundError,
    RetinueError,
    WrongTaskError,
)
from retinue_server.results import Task


@pytest.fixture
def catalog() -> Catalog:
    models = [
        served_model("cats", 2),
        served_model("cats", 10),
        served_model("cats", 1),
        served_model("dogs", 1),
        served_model("boxes", 4, Task.DETECT),
    ]
    failures = {
        ("cats", 11): BundleError("manifest.json: field `labels` must name at least one class."),
        ("birds", 3): BundleError("model.onnx cannot be read: No such file or directory."),
    }
    return Catalog(models, failures)


def message(kind: type[RetinueError], catalog: Catalog, task: Task, name: str, version: int = 0) -> str:
    with pytest.raises(kind) as raised:
        catalog.for_task(task, name, version)
    return raised.value.message


def test_models_are_listed_by_name_newest_version_first(catalog: Catalog) -> None:
    assert [(model.name, model.version) for model in catalog.models] == [
        ("boxes", 4),
        ("cats", 10),
        ("cats", 2),
        ("cats", 1),
        ("dogs", 1),
    ]


@pytest.mark.parametrize(("asked", "found"), [(0, 10), (1, 1), (2, 2), (10, 10)])
def test_a_version_is_found_and_0_is_the_newest(asked: int, found: int, catalog: Catalog) -> None:
    assert catalog.get("cats", asked).version == found
    assert catalog.for_task(Task.CLASSIFY, "cats", asked).version == found


def test_no_name_means_the_only_model_of_a_task(catalog: Catalog) -> None:
    assert catalog.for_task(Task.DETECT, "").name == "boxes"
    assert catalog.for_task(Task.DETECT, "", 4).name == "boxes"


def test_several_versions_of_one_model_are_one_name() -> None:
    catalog = Catalog([served_model("cats", 1), served_model("cats", 2)], {})
    assert catalog.for_task(Task.CLASSIFY, "").version == 2
    assert catalog.for_task(Task.CLASSIFY, "", 1).version == 1


@pytest.mark.parametrize(
    ("task", "named"),
    [(Task.CLASSIFY, "the server has 'cats', 'dogs' for classify"), (Task.SEGMENT, "none for segment")],
)
def test_no_name_is_refused_where_it_could_mean_several_or_none(
    task: Task, named: str, catalog: Catalog
) -> None:
    assert named in message(InvalidRequestError, catalog, task, "")


def test_an_unknown_name_is_told_with_those_there_are(catalog: Catalog) -> None:
    told = message(ModelNotFoundError, catalog, Task.CLASSIFY, "fish")
    assert told == "there is no model 'fish'; models served: 'boxes', 'cats', 'dogs'."


def test_an_unknown_version_is_told_with_those_there_are(catalog: Catalog) -> None:
    told = message(ModelNotFoundError, catalog, Task.CLASSIFY, "cats", 3)
    assert told == "model 'cats' has no version 3; versions served: '10', '2', '1'."


@pytest.mark.parametrize("version", [0, 3])
def test_a_bundle_that_was_refused_is_told_with_its_reason(version: int, catalog: Catalog) -> None:
    told = message(ModelNotFoundError, catalog, Task.CLASSIFY, "birds", version)
    assert "version 3 was found but cannot be served" in told
    assert "model.onnx cannot be read" in told


def test_a_refused_version_is_told_only_where_it_is_asked_for(catalog: Catalog) -> None:
    assert catalog.get("cats").version == 10
    assert "`labels`" in message(ModelNotFoundError, catalog, Task.CLASSIFY, "cats", 11)
    assert "`labels`" not in message(ModelNotFoundError, catalog, Task.CLASSIFY, "cats", 12)
    assert "no version 4" not in message(ModelNotFoundError, catalog, Task.CLASSIFY, "birds", 4)


@pytest.mark.parametrize("name", ["x" * 100_000, "\N{CAT FACE}" * 50_000])
def test_a_long_name_is_cut_in_the_answer(name: str, catalog: Catalog) -> None:
    told = message(ModelNotFoundError, catalog, Task.CLASSIFY, name, 7)
    assert len(told) < 300
    assert told.startswith(f"there is no model '{name[:100]}")


def test_a_model_of_another_task_is_told_with_those_of_the_task(catalog: Catalog) -> None:
    told = message(WrongTaskError, catalog, Task.CLASSIFY, "boxes")
    assert told == "model 'boxes' serves detect, not classify; models for classify: 'cats', 'dogs'."
    assert "models for segment: none" in message(WrongTaskError, catalog, Task.SEGMENT, "cats", 2)


def test_a_model_that_could_be_loaded_is_told_with_the_command_that_does(catalog: Catalog) -> None:
    catalog.could_be_loaded = lambda name: name in {"fish", "birds"}
    told = message(ModelNotFoundError, catalog, Task.CLASSIFY, "fish")
    assert (
        told
        == "model 'fish' is in the models folder but not loaded; load it with `retinue models load fish`."
    )
    # Why it could not be says more.
    assert "model.onnx cannot be read" in message(ModelNotFoundError, catalog, Task.CLASSIFY, "birds")
    assert message(ModelNotFoundError, catalog, Task.CLASSIFY, "cats", 7).startswith(
        "model 'cats' has no version 7"
    )
    assert message(ModelNotFoundError, catalog, Task.CLASSIFY, "foxes").startswith(
        "there is no model 'foxes'"
    )
