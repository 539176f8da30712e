"""Files are known, and checked, by the digits in their names."""

from pathlib import Path

import pytest
import torch

from retinue_export import published_files
from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file; torch has downloaded nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    return path


def test_a_file_is_fetched_once_and_kept(file: Path) -> None:
    published = file.rename(file.with_name(f"net-{manifest_file.file_sha256(file)[:8]}.pth"))
    fetched = published_files.download(published.as_uri())
    assert fetched.read_bytes() == published.read_bytes()
    published.unlink()
    assert published_files.download(published.as_uri()) == fetched


def test_a_file_of_other_digits_than_its_name_says_is_refused_and_not_kept(file: Path) -> None:
    published = file.rename(file.with_name("net-00000000.pth"))
    for _ in range(2):
        with pytest.raises(ExportError, match=r"could not be downloaded .*--weights"):
            published_files.download(published.as_uri())


def test_a_file_that_is_not_there_is_asked_for(file: Path) -> None:
    with pytest.raises(ExportError, match="give the file as --weights"):
        published_files.download(file.with_name("none.pth").as_uri())


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://example.org/net-0123abcd.pth", True),
        ("https://example.org/net-0123abce.pth", False),
        ("https://example.org/net.pth", False),
        ("https://example.org/net-900e.pth", False),
        ("", False),
    ],
)
def test_a_file_is_recognised_by_the_digits_in_its_name(url: str, known: bool) -> None:
    assert published_files.is_file_of(url, "0123abcd" + 56 * "0") is known
