"""`retinue models promote` moves a label to another version, in a file that is never half written."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retinue_client._promotion import PromotionError, ServingFile
from retinue_client.cli._app import app


@pytest.fixture
def retinue():
    """Runs the command line."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        folder = tmp_path / "a" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
    return tmp_path


def written(models: Path) -> object:
    (path,) = [one for one in (models / "a").iterdir() if not one.is_dir()]
    assert path.name == "serving.json"
    return json.loads(path.read_text())


def test_the_file_is_made_where_there_is_none(retinue, models):
    result = retinue("models", "promote", "a", "2", "--models", models)
    assert (result.exit_code, result.stdout) == (0, "stable of a is version 2.\n")
    assert written(models) == {"labels": {"stable": 2}}


def test_all_else_stays_as_it_is(retinue, models):
    content = {
        "list": {"versions": [1, 2]},
        "labels": {"canary": 2, "stable": 1},
        "split": [{"label": "stable", "percent": 90}, {"version": 2, "percent": 10}],
        "sticky_key": "user-id",
    }
    (models / "a" / "serving.json").write_text(json.dumps(content))
    assert retinue("models", "promote", "a", "3", "--label", "canary", "--models", models).exit_code == 0
    content["list"]["versions"].append(3)
    content["labels"]["canary"] = 3
    assert written(models) == content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("b", "1"), "has no model 'b'"),
        (("../a", "1"), "has no model '../a'"),
        (("..", "1"), "has no model '..'"),
        (("a", "4"), "has no version 4"),
        (("a", "0"), "VERSION"),
        (("a", "1", "--label", "7"), "a label begins with a letter"),
        (("a", "1", "--server", "http://x"), "--server: 'http://x' is no gRPC address"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(arguments, said, retinue, models):
    result = retinue("models", "promote", *arguments, "--models", models)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [one for one in (models / "a").iterdir() if not one.is_dir()] == []


@pytest.mark.parametrize("content", ["{", '{"lables": {}}', "\xff"])
def test_a_file_that_does_not_hold_is_left_alone(content, retinue, models):
    path = models / "a" / "serving.json"
    path.write_bytes(content.encode("latin-1"))
    result = retinue("models", "promote", "a", "2", "--models", models)
    assert result.exit_code == 2
    assert "serving.json" in result.stderr
    assert path.read_bytes() == content.encode("latin-1")


def test_a_link_is_not_replaced(retinue, models):
    (models / "data.json").write_text("{}")
    (models / "a" / "serving.json").symlink_to("../data.json")
    result = retinue("models", "promote", "a", "2", "--models", models)
    assert "is a link" in result.stderr
    assert (models / "data.json").read_text() == "{}"


@pytest.mark.parametrize("before", [None, '{"labels": {"stable": 1}}'])
def test_where_the_server_cannot_load_it_nothing_is_changed(before, retinue, models):
    path = models / "a" / "serving.json"
    if before is not None:
        path.write_text(before)
    # It knows nothing of loading.
    result = retinue("models", "promote", "a", "2", "--models", models, "--server", "localhost:1")
    assert result.exit_code == 2
    assert result.stderr.endswith("The label stays as it was.\n")
    assert (path.read_text() if path.exists() else None) == before


def test_a_pipeline_has_no_graph_and_is_promoted(retinue, models):
    (models / "a" / "2" / "model.onnx").rename(models / "a" / "2" / "manifest.json")
    assert retinue("models", "promote", "a", "2", "--models", models).exit_code == 0
    assert written(models) == {"labels": {"stable": 2}}


@pytest.mark.parametrize(
    "odd", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.write_text(" " * 70_000)]
)
def test_what_is_no_file_that_a_server_reads_is_left_alone(odd, retinue, models):
    odd(models / "a" / "serving.json")
    result = retinue("models", "promote", "a", "2", "--models", models)
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert "serving.json" in result.stderr


def test_a_folder_that_cannot_be_entered_is_told(retinue, models, monkeypatch):
    """Python's own questions about paths raise errors, and root may enter any."""

    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    for ask in ("lstat", "stat", "open"):
        monkeypatch.setattr(os, ask, forbidden)
    with pytest.raises(PromotionError, match="has no model"):
        ServingFile(models, "a")


def test_of_two_who_change_a_file_at_once_the_second_is_told(models):
    first, second = ServingFile(models, "a"), ServingFile(models, "a")
    first.promote(1, "stable")
    for change in (lambda: second.promote(2, "canary"), second.put_back):
        with pytest.raises(PromotionError, match="was changed by somebody else meanwhile; try again"):
            change()
    assert written(models) == {"labels": {"stable": 1}}
    coming = models / "a" / ".serving.json.coming"
    coming.touch()
    with pytest.raises(PromotionError, match="is being changed by somebody else"):
        first.put_back()
    assert coming.exists()
