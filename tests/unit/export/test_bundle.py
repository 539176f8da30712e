"""Bundles appear whole, once, and never change."""

import hashlib
import json
from pathlib import Path

import pytest
from retinue.v1 import manifest_pb2 as pb

from retinue_export import bundle
from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file
from retinue_server.errors import BundleError


def manifest(**changes: object) -> pb.ModelManifest:
    made = pb.ModelManifest(
        name="tiny",
        task=pb.TASK_CLASSIFY,
        input=pb.ImageInput(
            height=4,
            width=4,
            colour=pb.COLOUR_GREY,
            resize=pb.ResizeRule(mode=pb.RESIZE_MODE_STRETCH, interpolation=pb.INTERPOLATION_BILINEAR),
        ),
        labels=["a", "b"],
        opset=20,
    )
    made.MergeFrom(pb.ModelManifest(**changes))  # type: ignore[arg-type]
    return made


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    folder = bundle.write(tmp_path, manifest(), 3, b"graph")
    assert folder == tmp_path / "tiny" / "3"
    read = manifest_file.read(folder)
    manifest_file.check_hash(folder, read)
    assert read.sha256 == hashlib.sha256(b"graph").hexdigest()
    assert list(read.labels) == ["a", "b"]
    assert read.created_at.endswith("Z")


def test_the_manifest_is_json_with_proto_names_and_enum_names(tmp_path: Path) -> None:
    folder = bundle.write(tmp_path, manifest(), 1, b"graph")
    text = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert text["format_version"] == 1
    assert text["input"]["resize"]["mode"] == "RESIZE_MODE_STRETCH"


def test_an_existing_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = bundle.write(tmp_path, manifest(), 1, b"first")
    with pytest.raises(ExportError, match="choose another --version"):
        bundle.write(tmp_path, manifest(), 1, b"second")
    assert (folder / "model.onnx").read_bytes() == b"first"
    assert [entry.name for entry in folder.parent.iterdir()] == ["1"]


def test_a_manifest_that_the_server_would_refuse_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="opset"):
        bundle.write(tmp_path, manifest(opset=-1), 1, b"graph")
    assert list((tmp_path / "tiny").iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "with space"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="no model name"):
        bundle.require_free(tmp_path, name, 1)


def test_version_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="positive integer"):
        bundle.require_free(tmp_path, "tiny", 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="cannot be written"):
        bundle.write(tmp_path / "file", manifest(), 1, b"graph")
