"""Files of class names."""

import os
from pathlib import Path

import pytest
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export.test_bundle import manifest

from retinue_export import bundle, label_files
from retinue_export.errors import ExportError
from retinue_server.bundle.manifest import MAX_MANIFEST_BYTES
from retinue_server.errors import BundleError


def test_a_byte_order_mark_and_windows_ends_of_lines_are_no_part_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert label_files.read(path) == ("cat", "dog")


@pytest.mark.parametrize(
    "label", ["c\0t", "c\x1bt", "c\x0ct", "c\x9bt", "c\rt", "c\u2028t", "x" * 257], ids=ascii
)
def test_a_label_that_a_server_would_refuse_is_refused_with_its_line(label: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(f"cat\n{label}\n", encoding="utf-8", newline="")
    with pytest.raises(ExportError, match="line 2: a label must have 1 to 256 characters"):
        label_files.read(path)
    with pytest.raises(BundleError, match="`labels` must be names"):
        bundle.write(tmp_path, manifest(precision=pb.PRECISION_FP32, labels=[label]), 1, b"graph")


@pytest.mark.parametrize("label", ["x" * 256, "crème brûlée", "👩‍🌾", "a\u00a0b"])
def test_labels_may_be_of_any_language(label: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(label, encoding="utf-8")
    assert label_files.read(path) == (label,)


def test_what_would_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ExportError, match="There is no label file"):
            label_files.read(path)


def test_more_labels_than_a_manifest_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"x\n" * (MAX_MANIFEST_BYTES // 2) + b"x")
    with pytest.raises(ExportError, match=f"larger than {MAX_MANIFEST_BYTES} bytes"):
        label_files.read(path)


def test_labels_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\n tabby dog \nStraße\n", encoding="utf-8")
    assert label_files.read(path) == ("cat", "tabby dog", "Straße")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_is_no_text_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"labels\.txt"):
        label_files.read(path)


@pytest.mark.parametrize("content", ["", "cat\n\ndog\n"])
def test_labels_with_an_empty_line_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match="one label a line"):
        label_files.read(path)
