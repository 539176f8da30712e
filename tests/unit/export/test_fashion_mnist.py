"""Reading Fashion-MNIST."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from retinue_export import fashion_mnist
from retinue_export.errors import ExportError


def idx(folder: Path, content: bytes) -> Path:
    path = folder / "images.gz"
    path.write_bytes(gzip.compress(content))
    return path


def test_an_idx_file_is_read_in_its_shape(tmp_path: Path) -> None:
    content = b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(range(6))
    np.testing.assert_array_equal(fashion_mnist.read_idx(idx(tmp_path, content)), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"\0\0\x0d\x01\0\0\0\1\0",
        b"\0\0\x08\x01\0\0\0\5abc",
        b"\0\0\x08\x01\0\0\0\2abc",
        b"\0\0\x08\x03\0\0",
    ],
)
def test_what_is_no_idx_file_of_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"images\.gz"):
        fashion_mnist.read_idx(idx(tmp_path, content))


def test_data_that_is_neither_installed_nor_downloadable_is_asked_for_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setattr(fashion_mnist, "DOWNLOAD_FOLDER", tmp_path / "downloads")
    monkeypatch.setattr(FashionMNIST, "mirrors", [(tmp_path / "no-mirror").as_uri() + "/"])
    with pytest.raises(ExportError, match="install the Debian package dataset-fashion-mnist") as raised:
        fashion_mnist.load("test")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.usefixtures("fashion_mnist_data")
def test_both_splits_are_complete_and_balanced() -> None:
    for split, count in (("train", 60_000), ("test", 10_000)):
        data = fashion_mnist.load(split)
        assert data.images.shape == (count, 28, 28)
        assert data.images.dtype == np.uint8
        assert np.bincount(data.labels).tolist() == [count // 10] * 10
