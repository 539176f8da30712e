"""Real images to compare and measure with, prepared by the same code that prepares them in the server."""

import io
import zlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retinue_export import fashion_mnist
from retinue_export.scenes import Scene, SceneSource
from retinue_server.vision import decode, resize
from retinue_server.vision.spec import InputSpec

Uint8 = NDArray[np.uint8]
MAX_PIXELS = 100_000_000
SCENE_SIZES = ((240, 320), (240, 240), (320, 240), (320, 320))
"""Height and width of the scenes to evaluate on, in turn."""
SCENE_SEED = 20_000
_SKIMAGE_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "color.png",
    "camera.png",
    "coins.png",
    "moon.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "page.png",
    "text.png",
    "clock_motion.png",
    "cell.png",
    "horse.png",
    "logo.png",
)
_SKLEARN_PHOTOS = ("china.jpg", "flower.jpg")
PHOTOS_DESCRIPTION = (
    f"the {len(_SKIMAGE_PHOTOS) + len(_SKLEARN_PHOTOS)} sample images of scikit-image and scikit-learn "
    "and the upper left quarters of the first 8, prepared by the manifest's rule"
)
_FEW = 8
FEW_PHOTOS_DESCRIPTION = f"the first {_FEW} sample images of scikit-image, prepared by the manifest's rule"
"""Photos for networks that take their time over each."""


@lru_cache(maxsize=1)
def photos(spec: InputSpec) -> Uint8:
    """Prepares the sample images of scikit-image and scikit-learn, and quarters of some: uint8 [32,H,W,C]."""
    encoded = list(sample_photos().values())
    opened = [decode.open_encoded(data, max_pixels=MAX_PIXELS) for data in encoded]
    for data in encoded[:8]:
        whole = Image.open(io.BytesIO(data))
        opened.append(whole.crop((0, 0, whole.width // 2, whole.height // 2)))
    return prepared(opened, spec)


def sample_photos() -> dict[str, bytes]:
    """The sample images of scikit-image and scikit-learn: files by name."""
    packages = (("skimage.data", _SKIMAGE_PHOTOS), ("sklearn.datasets.images", _SKLEARN_PHOTOS))
    return {name: files(package).joinpath(name).read_bytes() for package, names in packages for name in names}


def few_photos(spec: InputSpec) -> Uint8:
    """Prepares the first few of them: uint8 [8,H,W,C]."""
    encoded = [files("skimage.data").joinpath(name).read_bytes() for name in _SKIMAGE_PHOTOS[:_FEW]]
    return prepared((decode.open_encoded(data, max_pixels=MAX_PIXELS) for data in encoded), spec)


def fashion_images(count: int, spec: InputSpec) -> Uint8:
    """Prepares the first images of Fashion-MNIST's test split: uint8 [count,H,W,C]."""
    return prepared(map(Image.fromarray, fashion_mnist.load("test").images[:count]), spec)


def test_scenes(count: int) -> list[Scene]:
    """Makes the scenes that models are evaluated on: always the same, of test items and test backgrounds only."""
    source = SceneSource("test")
    random = np.random.default_rng(SCENE_SEED)
    return [source.scene(*SCENE_SIZES[number % len(SCENE_SIZES)], random) for number in range(count)]


def scene_images(count: int, spec: InputSpec) -> Uint8:
    """Prepares the first test scenes: uint8 [count,H,W,C]."""
    return prepared((Image.fromarray(scene.image) for scene in test_scenes(count)), spec)


def prepared(images: Iterable[Image.Image], spec: InputSpec) -> Uint8:
    """Prepares images as the server does: uint8 [N,H,W,C]."""
    return np.stack([prepare_one(image, spec)[0] for image in images])


def prepare_one(image: Image.Image, spec: InputSpec) -> tuple[Uint8, resize.Frame]:
    """Prepares one image: its pixels, uint8 [H,W,C], and the frame that leads back to the original."""
    pixels = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    return pixels, resize.prepare(image, spec, pixels)


def regions(images: Uint8, count: int) -> NDArray[np.float32]:
    """Draws regions of all sizes in images, always the same in the same image.

    Args:
        images: uint8 [N,H,W,C].
        count: rows for each image, of which a quarter stays unused.

    Returns:
        float32 [N,count,4], x1,y1,x2,y2 in pixels; unused rows are 0.
    """
    whole = np.array([images.shape[2], images.shape[1]])
    drawn = np.zeros((len(images), count, 4), np.float32)
    used = count - count // 4
    for image, rows in zip(images, drawn, strict=True):
        random = np.random.default_rng(zlib.crc32(image.tobytes()))
        sides = whole * random.uniform(0.1, 1, (used, 2))
        corners = random.uniform(0, 1, (used, 2)) * (whole - sides)
        rows[:used] = np.concatenate([corners, corners + sides], axis=1)
    return drawn


def batches(images: Uint8, size: int) -> Iterable[Uint8]:
    """Cuts images into batches of `size`; where the last would be smaller it is filled up from the front."""
    remaining = iter(range(len(images)))
    while picked := list(islice(remaining, size)):
        yield images[[*picked, *(number % len(images) for number in range(size - len(picked)))]]
