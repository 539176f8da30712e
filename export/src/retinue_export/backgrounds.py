"""Backgrounds of the scenes: pieces of the photos that come with scikit-image and scikit-learn, cluttered with others.

Training and evaluation never share a photo.
"""

from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Uint8 = NDArray[np.uint8]
PHOTOS = {
    "train": (
        ("skimage.data", "astronaut.png"),
        ("skimage.data", "brick.png"),
        ("skimage.data", "camera.png"),
        ("skimage.data", "chelsea.png"),
        ("skimage.data", "color.png"),
        ("skimage.data", "grass.png"),
        ("skimage.data", "hubble_deep_field.jpg"),
        ("skimage.data", "ihc.png"),
        ("skimage.data", "motorcycle_left.png"),
        ("skimage.data", "page.png"),
        ("skimage.data", "retina.jpg"),
        ("sklearn.datasets.images", "flower.jpg"),
    ),
    "test": (
        ("skimage.data", "coffee.png"),
        ("skimage.data", "gravel.png"),
        ("skimage.data", "rocket.jpg"),
        ("sklearn.datasets.images", "china.jpg"),
    ),
}
_SHORTER_SIDES = (340, 480, 680)


def load(split: Literal["train", "test"]) -> list[Uint8]:
    """Reads the photos of a split, each in several scales.

    Returns:
        uint8 [h,w,3] each, RGB, shorter side at least 340 pixels.
    """
    scaled = []
    for package, name in PHOTOS[split]:
        with files(package).joinpath(name).open("rb") as file:
            photo = Image.open(file).convert("RGB")
        for side in _SHORTER_SIDES:
            scale = side / min(photo.size)
            size = (max(side, round(photo.width * scale)), max(side, round(photo.height * scale)))
            scaled.append(np.asarray(photo.resize(size, Image.Resampling.BILINEAR)))
    return scaled


def compose(
    photos: list[Uint8], height: int, width: int, random: np.random.Generator, *, recolour: bool = False
) -> Uint8:
    """Cuts a background out of one photo and pastes pieces of others and plain shapes over it.

    Args:
        photos: what `load` returned.
        height: rows of the background, at most the shorter side of every photo.
        width: its columns, likewise.
        random: where the choices come from.
        recolour: whether to swap and invert colours and turn pieces over, so that few photos teach much.

    Returns:
        uint8 [height,width,3], RGB, writable.
    """
    gain = np.uint16(random.integers(128, 225))
    offset = np.uint8(random.integers(0, 32))
    background = (_piece(photos, height, width, random, recolour) * gain >> 8).astype(np.uint8) + offset
    for _ in range(int(random.integers(0, 7))):
        patch_height = int(random.integers(height // 16, height // 3))
        patch_width = int(random.integers(width // 16, width // 3))
        top = int(random.integers(0, height - patch_height + 1))
        left = int(random.integers(0, width - patch_width + 1))
        patch = background[top : top + patch_height, left : left + patch_width]
        if random.random() < 0.5:
            patch[...] = _piece(photos, patch_height, patch_width, random, recolour)
        else:
            patch[_shape(patch_height, patch_width, random)] = random.integers(0, 256, 3)
    return background


def _piece(
    photos: list[Uint8], height: int, width: int, random: np.random.Generator, recolour: bool
) -> Uint8:
    photo = photos[int(random.integers(len(photos)))]
    top = int(random.integers(0, photo.shape[0] - height + 1))
    left = int(random.integers(0, photo.shape[1] - width + 1))
    piece = photo[top : top + height, left : left + width]
    if random.random() < 0.5:
        piece = piece[:, ::-1]
    if recolour:
        piece = piece[:: random.choice((1, -1)), :, random.permutation(3)]
        piece = 255 - piece if random.random() < 0.3 else piece
    return piece


def _shape(height: int, width: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """A rectangle, an ellipse or a ring that fills height x width."""
    kind = random.integers(3)
    if kind == 0:
        return np.ones((height, width), np.bool_)
    rows = np.linspace(-1, 1, height)[:, np.newaxis]
    columns = np.linspace(-1, 1, width)
    distance = rows**2 + columns**2
    inside = distance <= 1
    return inside if kind == 1 else inside & (distance >= 0.5)
