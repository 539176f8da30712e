"""Files of class names."""

from pathlib import Path

import pytest

from retinue_export import label_files
from retinue_export.errors import ExportError


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
