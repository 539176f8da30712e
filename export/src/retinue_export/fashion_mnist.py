"""Fashion-MNIST: 28x28 grey pictures of ten kinds of clothing, 60,000 to train on and 10,000 to test on.

Read from Debian's `dataset-fashion-mnist` where that is installed, else downloaded by torchvision, which checks the
MD5 sums of the files.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset, arXiv:1708.07747. MIT licence.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import FashionMNIST

from retinue_export.errors import ExportError

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_FOLDER = Path.home() / ".cache" / "retinue" / "datasets"
Split = Literal["train", "test"]
_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """One split.

    Attributes:
        images: uint8 [N,28,28], grey, items bright on black.
        labels: int64 [N], index into `CLASSES`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load(split: Split) -> FashionMnist:
    """Reads a split, from Debian's package or by download.

    Raises:
        ExportError: the files are neither installed nor downloadable.
        ValueError: a file is not in IDX format.
    """
    folder = DEBIAN_FOLDER
    if not (folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz").is_file():
        try:
            FashionMNIST(str(DOWNLOAD_FOLDER), train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(
                f"Fashion-MNIST could not be downloaded ({reason}): install the Debian package "
                "dataset-fashion-mnist."
            ) from error
        folder = DOWNLOAD_FOLDER / "FashionMNIST" / "raw"
    images = read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz")
    return FashionMnist(images, labels.astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a gzipped IDX file of unsigned bytes.

    Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format": two zero bytes, the type (8 for unsigned bytes),
    the number of dimensions, each dimension as a big-endian 32-bit integer, then the data.

    Raises:
        ValueError: the file is not in that format.
    """
    content = gzip.decompress(path.read_bytes())
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if data.size != np.prod(shape):
        raise ValueError(f"{path} holds {data.size} bytes of data, its header says {shape}")
    return data.reshape(shape)
