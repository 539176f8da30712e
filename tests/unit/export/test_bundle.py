"""Bundles appear whole, once, and never change."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from retinue.v1 import manifest_pb2 as pb

from retinue_export import bundle
from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file
from retinue_server.bundle import repository
from retinue_server.errors import BundleError, StartupError


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
        precision=pb.PRECISION_FP32,
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
    with pytest.raises(BundleError, match=r"tiny/1/manifest\.json: field `opset` must be at least 1"):
        bundle.write(tmp_path / "models", manifest(opset=-1), 1, b"graph")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind_and_other_versions_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, _content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = bundle.write(tmp_path, manifest(), 1, b"first")
    monkeypatch.setattr(Path, "write_bytes", fill)
    for name in ("tiny", "other"):
        with pytest.raises(ExportError, match=f"{name}/2 cannot be written: No space left on device"):
            bundle.write(tmp_path, manifest(name=name), 2, b"second")
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]
    assert list((tmp_path / "tiny").iterdir()) == [kept]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_path: Path, _content: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bundle.write(tmp_path, manifest(), 1, b"graph")
    assert list(tmp_path.iterdir()) == []


def test_of_two_exports_of_one_version_the_second_is_told_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def rename_after_another(aside: Path, folder: Path) -> None:
        shutil.copytree(aside, folder)
        rename(aside, folder)

    monkeypatch.setattr(os, "rename", rename_after_another)
    with pytest.raises(ExportError, match="tiny/1 exists, and a version is never changed"):
        bundle.write(tmp_path, manifest(), 1, b"graph")
    assert list((tmp_path / "tiny").iterdir()) == [tmp_path / "tiny" / "1"]


def test_what_an_export_left_that_was_killed_is_cleared_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asides: list[Path] = []
    rename = os.rename

    def watched(aside: Path, folder: Path) -> None:
        asides.append(aside)
        rename(aside, folder)

    monkeypatch.setattr(os, "rename", watched)
    for version in (1, 2):
        bundle.write(tmp_path, manifest(), version, b"graph")
    old, new = asides
    notes = tmp_path / "tiny" / ".1-original"
    for folder in (old, new, notes):
        folder.mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    for folder in (old, notes):
        os.utime(folder, (two_days_ago, two_days_ago))
    bundle.write(tmp_path, manifest(), 3, b"graph")
    assert not old.exists()
    assert new.is_dir()
    assert notes.is_dir()


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "with space"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="no model name"):
        bundle.require_free(tmp_path, name, 1)


@pytest.mark.parametrize("version", [-1, 0, 1_000_000_000, 10**300])
def test_a_version_that_a_server_would_pass_over_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(ExportError, match="positive integer of at most 9 digits"):
        bundle.require_free(tmp_path, "tiny", version)
    (tmp_path / "tiny" / str(version % 10**12)).mkdir(parents=True)
    with pytest.raises(StartupError, match="holds no bundle"):
        repository.scan(tmp_path)


def test_the_highest_version_is_served(tmp_path: Path) -> None:
    bundle.write(tmp_path, manifest(), 999_999_999, b"graph")
    (found,) = repository.scan(tmp_path)
    assert found.version == 999_999_999


@pytest.mark.parametrize(
    "out", ["file", "file/below/it", "x" * 300, "new/" + "x" * 300, "/dev/null", "/proc/new"]
)
def test_a_folder_that_cannot_be_written_is_named_before_the_work(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match=f"{out}.* cannot be written: "):
        bundle.require_free(tmp_path / out, "tiny", 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_that_is_not_ones_own_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ExportError, match="tiny/1 cannot be written: Permission denied"):
        bundle.require_free(tmp_path, "tiny", 1)


def test_to_ask_whether_a_folder_is_free_makes_nothing(tmp_path: Path) -> None:
    assert bundle.require_free(tmp_path / "models", "tiny", 1) == tmp_path / "models" / "tiny" / "1"
    assert list(tmp_path.iterdir()) == []
