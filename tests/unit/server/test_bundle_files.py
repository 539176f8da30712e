"""The files of a bundle: their hash, their size, and what is no file at all."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from retinue.v1 import manifest_pb2 as pb
from tests.unit.server.manifests import SHA256, fields, why_refused, write

from retinue_server.bundle import manifest, plain
from retinue_server.errors import BundleError


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    # Source: FIPS 180-2, appendix B.1.
    (tmp_path / "model.onnx").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest.file_sha256(tmp_path / "model.onnx") == digest
    manifest.check_hash(tmp_path, pb.ModelManifest(sha256=digest))


def test_another_hash_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"abc")
    with pytest.raises(BundleError, match="field `sha256`") as refused:
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))
    assert SHA256 in refused.value.message
    assert "ba7816bf" in refused.value.message
    assert "copy or export the bundle again" in refused.value.message


def test_what_is_too_large_for_a_graph_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match=r"model\.onnx has 1099511627776 bytes"):
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))
    with pytest.raises(BundleError, match=r"model\.onnx has 1099511627776 bytes"):
        plain.describe("large", tmp_path / "model.onnx")


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: No such file"):
        manifest.check_hash(tmp_path, pb.ModelManifest(sha256=SHA256))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_pipe, "is no regular file; copy it again"),
        (_endless, "is no regular file; copy it again"),
        (_socket, "cannot be read: No such device"),
        (Path.mkdir, "cannot be read: Is a directory"),
    ],
)
def test_what_would_never_end_is_not_read(
    make: Callable[[Path], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A socket's path has at most 108 characters.
    monkeypatch.chdir(tmp_path)
    for name in ("manifest.json", "model.onnx"):
        make(Path(name))
    assert told in why_refused(Path())
    with pytest.raises(BundleError, match=f"model.onnx {told}"):
        manifest.check_hash(Path(), pb.ModelManifest(sha256=SHA256))


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    write(kept, fields())
    (tmp_path / "manifest.json").symlink_to(kept / "manifest.json")
    assert manifest.read(tmp_path).name == "a-model"
