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
    assert result.exit_code == 0
    new, no_requests, who = result.stdout.splitlines()
    assert new == "stable is new: a had no such label, and now it names version 2."
    assert no_requests == (
        "Requests that name no version go to version 3, the newest: have them name stable, or give it the split with "
        "--split."
    )
    assert who.startswith(f"{models / 'a' / 'serving.json'} is written: a server that watches the folder")
    assert written(models) == {"labels": {"stable": 2}}


def test_a_version_may_be_a_pipelines(retinue, models):
    (models / "a" / "3" / "model.onnx").rename(models / "a" / "3" / "manifest.json")
    assert retinue("models", "promote", "a", "3", "--models", models).exit_code == 0
    assert written(models) == {"labels": {"stable": 3}}


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


def test_fields_stay_in_their_order_and_as_they_were_written(retinue, models):
    path = models / "a" / "serving.json"
    path.write_text('{"stickyKey": "user-id", "split": [{"percent": 100, "label": "é"}], "labels": {"é": 1}}')
    assert retinue("models", "promote", "a", "2", "--models", models).exit_code == 2
    path.write_text('{"stickyKey": "user-id", "split": [{"percent": 100, "label": "b"}], "labels": {"b": 1}}')
    assert retinue("models", "promote", "a", "2", "--models", models).exit_code == 0
    told = """{
  "stickyKey": "user-id",
  "split": [
    {
      "percent": 100,
      "label": "b"
    }
  ],
  "labels": {
    "b": 1,
    "stable": 2
  }
}
"""
    assert path.read_text() == told


@pytest.mark.parametrize(
    ("policy", "version", "said"),
    [
        ({"labels": {"stable": 1}}, 3, "stable of a is version 3; it was 1."),
        ({"labels": {"stable": 3}}, 3, "stable of a is version 3, as it was."),
        ({"labels": {"stable": 1}, "list": {"versions": [1]}}, 2, "stable of a is version 2; it was 1."),
        (
            {"labels": {"stable": 1}, "split": [{"label": "stable", "percent": 100}]},
            2,
            "stable of a is version 2; it was 1.",
        ),
    ],
)
def test_a_version_that_answers_requests_without_one_needs_no_advice(policy, version, said, retinue, models):
    (models / "a" / "serving.json").write_text(json.dumps(policy))
    result = retinue("models", "promote", "a", version, "--models", models)
    first, second = result.stdout.splitlines()
    assert first == said
    assert " is written: " in second


def test_who_is_not_in_the_split_gets_it_when_asked(retinue, models):
    policy = {"split": [{"version": 1, "percent": 100}], "labels": {"stable": 1}}
    (models / "a" / "serving.json").write_text(json.dumps(policy))
    result = retinue("models", "promote", "a", "2", "--models", models)
    assert "Requests that name no version go by the split, which does not have it: " in result.stdout
    result = retinue("models", "promote", "a", "2", "--split", "--models", models)
    assert "Requests that name no version" not in result.stdout
    assert written(models) == {"split": [{"label": "stable", "percent": 100}], "labels": {"stable": 2}}


def test_a_pipeline_has_labels_without_a_graph(retinue, models):
    (models / "a" / "4").mkdir()
    (models / "a" / "4" / "manifest.json").touch()
    assert retinue("models", "promote", "a", "4", "--models", models).exit_code == 0
    assert written(models) == {"labels": {"stable": 4}}


@pytest.mark.parametrize("address", ["s3://models/served", "http://host/models"])
def test_only_folders_can_be_changed(address, retinue):
    result = retinue("models", "promote", "a", "2", "--models", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "retinue: --models: only a folder can be changed here; put the changed serving.json to "
        f"{address}/a/serving.json by other means.\n"
    )


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


@pytest.mark.parametrize(
    "content",
    [
        "",
        " ",
        "[]",
        "{",
        '{"lables": {}}',
        '{"labels": {"stable": 1}, "labels": {}}',
        '{"labels": [1]}',
        '{"split": [{"version": 1, "percent": 50}]}',
        '{"split": [{"label": "canary", "percent": 100}]}',
        '{"labels": {"canary": 3}, "list": {"versions": [2]}}',
        '{"latest": 0}',
        '{"sticky_key": "' + "x" * (64 << 10) + '"}',
        "\xff",
    ],
)
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
