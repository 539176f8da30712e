"""The command line: one sentence on bad input, exit code 2; a failed comparison, exit code 1."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny
from tests.unit.export.command import run
from torch import nn

from retinue_export import cli, reference
from retinue_export.assembly import Quality
from retinue_export.cli import options
from retinue_export.errors import ExportError
from retinue_export.packaging import classifier
from retinue_export.recipes.catalog import RECIPES
from retinue_export.recipes.recipe import Recipe
from retinue_export.training import Report
from retinue_server.bundle import manifest as manifest_file

LONG = "a" * 300
RECIPE = Recipe(
    manifest=pb.ModelManifest(
        name="tiny",
        task=pb.TASK_CLASSIFY,
        labels=["a", "b", "c"],
        source=pb.Source(architecture="tests.tiny.network"),
    ),
    network=tiny.network,
    train=lambda _report: tiny.network(seed=1),
    packaging=classifier(tiny.SPEC, tiny.NORMALISATION),
    parity_images=lambda: tiny.images(9),
    parity_inputs="noise",
    quality=lambda: Quality("noise", 3, lambda _runner: {"top1_accuracy": 0.5}),
)


@pytest.fixture(autouse=True)
def _tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with the tiny recipe's bundle."""
    out = tmp_path / "models"
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "tiny", "--out", str(out), "--keep-weights", str(tmp_path / "weights")])
    assert ended.value.code == 0
    return out


def copy_of(models: Path, target: Path) -> Path:
    folder = target / "tiny" / "1"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "manifest.json"):
        (folder / name).write_bytes((models / "tiny" / "1" / name).read_bytes())
    return folder


def test_a_trained_network_becomes_a_bundle(models: Path) -> None:
    manifest = manifest_file.read(models / "tiny" / "1")
    assert {figure.engine for figure in manifest.quality} == {"pytorch", "onnxruntime"}


def test_a_recipe_learns_from_the_networks_of_others_which_are_trained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[str] = []

    def train_first(_report: Report) -> nn.Module:
        trainings.append("first")
        return tiny.network(seed=1)

    def train_second(_report: Report, before: nn.Module) -> nn.Module:
        trainings.append("second")
        made.append(before)
        return tiny.network(seed=2)

    def train_third(_report: Report, second: nn.Module, first: nn.Module) -> nn.Module:
        trainings.append("third")
        assert first is made[-1]
        assert second is not first
        return second

    def named(name: str) -> pb.ModelManifest:
        manifest = pb.ModelManifest()
        manifest.CopyFrom(RECIPE.manifest)
        manifest.name = name
        return manifest

    made: list[nn.Module] = []
    first = replace(RECIPE, train=train_first)
    second = replace(RECIPE, manifest=named("tiny-too"), train=train_second, learns_from=(first,))
    third = replace(RECIPE, manifest=named("tiny-three"), train=train_third, learns_from=(second, first))
    for name in tuple(RECIPES):
        monkeypatch.delitem(RECIPES, name)
    for recipe in (first, second, third):
        monkeypatch.setitem(RECIPES, recipe.manifest.name, recipe)
    assert run(capsys, "train", "tiny-three", "--out", str(tmp_path / "one"))[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["tiny-three"]
    assert run(capsys, "train", "all", "--out", str(tmp_path / "all"))[0] == 0
    assert trainings == ["first", "second", "third"] * 2


def test_kept_weights_give_the_same_graph_again(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(tmp_path / "weights")
    assert run(capsys, "train", "tiny", "--weights", weights, "--out", str(models), "--version", "2")[0] == 0
    first, second = (manifest_file.read(models / "tiny" / version) for version in "12")
    assert first.sha256 == second.sha256


def test_verify_prints_the_certificate_and_says_where_the_weights_come_from(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "verify", str(models / "tiny"))
    assert code == 0
    assert "probabilities" in out
    assert "the bundle itself" in out


def test_verify_says_what_it_compares_before_it_does(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, before = reference.load, []

    def compare(*_arguments: object) -> list[pb.OutputParity]:
        before.append(capsys.readouterr().out)
        raise ExportError("That will do.")

    monkeypatch.setattr(reference, "load", lambda *given: replace(load(*given), compare=compare))
    run(capsys, "verify", models / "tiny")
    assert "the bundle itself" in before[0]


def test_verify_counts_the_images_and_batch_sizes_that_it_compared_itself(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(models, tmp_path / "changed")
    text = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    text["parity"].update(images=5000, batch_sizes=[64])
    (folder / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
    _, out, _ = run(capsys, "verify", str(folder))
    assert "9 images, batch sizes 1, 2, 7, 32" in " ".join(out.split())


def test_verify_finds_a_changed_file(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(models, tmp_path / "changed")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    code, _, err = run(capsys, "verify", str(folder))
    assert code == 2
    assert "sha256" in err


def test_verify_finds_a_graph_that_computes_something_else(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(models, tmp_path / "changed")
    model = onnx.load(folder / "model.onnx")
    scale, _offset = (tensor for tensor in model.graph.initializer if list(tensor.dims) == [6, 3])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, scale.name))
    onnx.save(model, folder / "model.onnx")
    text = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    text["sha256"] = manifest_file.file_sha256(folder / "model.onnx")
    (folder / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
    code, _, err = run(capsys, "verify", str(folder))
    assert code == 1
    assert "differs from PyTorch" in err


def test_a_command_that_is_told_to_end_clears_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[bool] = []

    def export(_arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")
        finally:
            cleared.append(True)

    monkeypatch.setattr(cli, "app", export)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main([])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert cleared


def test_the_folder_of_the_highest_version_is_taken(tmp_path: Path) -> None:
    for name in ("2", "10", "notes", ".11-writing-x", "٣٠"):
        (tmp_path / name).mkdir()
    assert options.version_folder(tmp_path) == tmp_path / "10"


def test_an_existing_version_is_refused_before_anything_is_trained(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "train", "tiny", "--out", str(models))
    assert code == 2
    assert "choose another --version" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "fashion-dancer", "--out", "out"], "no recipe 'fashion-dancer'"),
        (["train", "fashion-cnn", "--out", "out", "--weights", "none"], "There is no weights file"),
        (["torchvision", "resnet9", "--name", "a", "--out", "out"], "no model 'resnet9'"),
        (["torchvision", "mobilenet_v2", "--name", "a b", "--out", "out"], "no model name"),
        (
            ["torchvision", "mobilenet_v2", "--weights", "none.pth", "--name", "a", "--out", "out"],
            "no weights file",
        ),
        (["timm", "resnet9", "--name", "a", "--out", "out"], "no model 'resnet9'"),
        (["timm", "resnet18", "--weights", "none.pth", "--name", "a", "--out", "out"], "no weights file"),
        (["verify", "none"], "There is no bundle folder"),
        (["verify", "."], "manifest.json"),
        (["inspect", LONG], f"{LONG} cannot be used: File name too long."),
        (["features", LONG, "--list"], f"{LONG} cannot be used: File name too long."),
        (["inspect", ".", "--html", LONG], f"{LONG} cannot be used: File name too long."),
        (["train", "fashion-cnn", "--out", LONG], "cannot be written: File name too long."),
        (["train", "fashion-cnn", "--out", "out", "--weights", LONG], "cannot be used: File name too long."),
        (["adopt", LONG, "--name", "a", "--out", "out"], "File name too long."),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_catalogue_is_listed_by_task_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "catalogue", "lenet_5", "resnet1*", "--json")
    assert code == 0
    assert [(row["name"], row["source"], row["task"]) for row in json.loads(out)] == [
        ("resnet101", "torchvision", "classify"),
        ("resnet152", "torchvision", "classify"),
        ("resnet18", "torchvision", "classify"),
        ("lenet_5", "zoo", "classify"),
    ]
    code, out, _ = run(capsys, "catalogue")
    assert code == 0
    assert "fcn_8s" in out


@pytest.mark.slow
def test_a_row_of_the_catalogue_is_proved_and_written_down(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "catalogue.md"
    code, out, _ = run(capsys, "catalogue", "lenet_5", "--prove", "--json", "--page", str(page))
    assert code == 0
    (row,) = json.loads(out)
    assert row["difference"] < 1e-4 < row["spread"]
    assert "| lenet_5 | zoo | classify | 32 |" in page.read_text(encoding="utf-8")


def test_a_row_that_cannot_be_proved_is_told_and_the_others_are_written_down(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue_export.catalogue import report, rows
    from retinue_export.catalogue.proof import Proof

    def prove(row: rows.Row) -> Proof:
        if row.name == "zfnet":
            raise ExportError("it is broken.")
        if row.name == "alexnet":
            raise ZeroDivisionError("within | it")
        return Proof(row, 60_000, spread=0.5, difference=1e-6, file_bytes=120_000, export_seconds=1.0)

    monkeypatch.setattr(report, "prove", prove)
    page = tmp_path / "catalogue.md"
    names = ("zfnet", "lenet_5", "alexnet")
    code, out, err = run(capsys, "catalogue", *names, "--prove", "--json", "--page", str(page))
    assert code == 1
    assert "zfnet  it is broken." in err
    assert "2 of 3 architectures" in err
    assert {row["name"]: row.get("failure") for row in json.loads(out)} == {
        "lenet_5": None,
        "alexnet": "ZeroDivisionError: within | it",
        "zfnet": "it is broken.",
    }
    text = page.read_text(encoding="utf-8")
    assert "| lenet_5 |" in text
    assert "| zfnet | zoo | classify | 224 | it is broken. |" in text
    assert "ZeroDivisionError: within / it |" in text


def test_a_sample_of_timm_has_a_part_of_the_page_to_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue_export.catalogue import report, rows, timm_sample
    from retinue_export.catalogue.proof import Proof

    def prove(row: rows.Row) -> Proof:
        if row.name == "test_vit":
            raise ExportError("it is broken.")
        return Proof(row, 60_000, spread=0.5, difference=1e-6, file_bytes=120_000, export_seconds=1.0)

    monkeypatch.setattr(report, "prove", prove)
    monkeypatch.setattr(timm_sample.timm_models, "classifiers", lambda: ["test_vit", "test_resnet"])
    page = tmp_path / "catalogue.md"
    sample = ("--timm-sample", "2", "--prove", "--page", str(page))
    code, _, err = run(capsys, "catalogue", "lenet_5", *sample)
    assert code == 1
    assert "1 of 3 architectures" in err
    catalogue, _, drawn = page.read_text(encoding="utf-8").partition("## A random sample of timm")
    assert "| lenet_5 |" in catalogue
    assert "Of 2 classifiers drawn" in drawn
    assert ", 1 pass." in drawn
    assert "| test_resnet | timm | classify | 128 |" in drawn
    assert "| test_vit | timm | classify | 128 | it is broken. |" in drawn
    assert run(capsys, "catalogue", *sample)[2].count("architectures") == 1
    assert "lenet_5" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lenet_6",), "has no 'lenet_6'"),
        (("lenet_5", "--page", "page.md"), "give --prove too"),
        (("lenet_5", "--prove", "--page", "nowhere/page.md"), "no folder nowhere"),
    ],
)
def test_a_catalogue_that_cannot_be_shown_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = run(capsys, "catalogue", *arguments)
    assert code == 2
    assert told in err
