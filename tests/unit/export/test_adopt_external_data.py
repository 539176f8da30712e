"""Weights in files beside an ONNX file: put inside, or refused in one sentence by `retinue-export adopt`."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from tests.unit.export import foreign
from tests.unit.export.adopting import adopt, assert_refused
from tests.unit.export.command import run

from retinue_export.adoption import external_data
from retinue_export.errors import ExportError


def with_external_data(classifier: Path) -> Path:
    model = onnx.load(classifier)
    onnx.save_model(model, classifier, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return classifier


def relocate(path: Path, location: str) -> Path:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_file_is_put_inside(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_external_data(classifier)
    assert adopt(capsys, path, *told)[0] == 0
    model = onnx.load(path.parent / "models" / "it" / "1" / "model.onnx", load_external_data=False)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert run(capsys, "verify", str(path.parent / "models" / "it"), "--adopted", str(path))[0] == 0


@pytest.mark.parametrize("location", ["../weights.bin", "inner/../../weights.bin", "/etc/hostname", ""])
def test_external_data_outside_of_the_folder_is_refused(
    location: str,
    tmp_path: Path,
    told: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    path = foreign.export(
        foreign.Classifier(3), folder / "plain.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    with_external_data(path)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    monkeypatch.setattr(external_data._Place, "read", lambda _self: pytest.fail("it was read"))
    assert_refused(capsys, relocate(path, location), told, "outside of its folder")


@pytest.mark.parametrize("location", ["weights\0.bin", "w" * 5000])
def test_a_location_that_names_no_file_is_refused(
    location: str, classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = relocate(with_external_data(classifier), location)
    assert_refused(capsys, path, told, "which cannot be opened")


def test_a_link_to_itself_is_refused(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_external_data(classifier)
    (path.parent / "weights.bin").unlink()
    os.symlink("weights.bin", path.parent / "weights.bin")
    assert_refused(capsys, path, told, "weights.bin")


def test_a_link_that_leads_outside_of_the_folder_is_refused(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = foreign.export(
        foreign.Classifier(3), folder / "plain.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    with_external_data(path)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    os.symlink(tmp_path / "weights.bin", folder / "weights.bin")
    assert_refused(capsys, path, told, "outside of its folder")


def test_external_data_that_is_missing_or_cut_short_is_refused(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_external_data(classifier)
    data = path.parent / "weights.bin"
    content = data.read_bytes()
    data.write_bytes(content[:-10])
    assert_refused(capsys, path, told, "weights.bin is too short for the weight")
    data.unlink()
    assert_refused(capsys, path, told, "that file is missing")


def test_external_data_that_no_single_file_could_hold_is_not_read(classifier: Path) -> None:
    path = with_external_data(classifier)
    model = onnx.load(path, load_external_data=False)
    with pytest.raises(ExportError, match="more than 2 GB"):
        external_data.embed(model, path, 100)
    assert np.all([tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer])
