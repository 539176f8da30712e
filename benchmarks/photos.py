"""The images of every scenario: real photos as 500x375 JPEGs, as large as ImageNet's are on average."""

from io import BytesIO
from pathlib import Path

import skimage
import sklearn.datasets
from PIL import Image

_SIZE = (500, 375)
_QUALITY = 90


def jpegs() -> list[bytes]:
    """Six photos of scikit-image and scikit-learn, cropped to 4:3, 500x375 pixels, JPEG quality 90."""
    samples = Path(skimage.__file__).parent / "data"
    more = Path(sklearn.datasets.__file__).parent / "images"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    paths = [*(samples / name for name in names), more / "china.jpg", more / "flower.jpg"]
    return [_jpeg(path) for path in paths]


def _jpeg(path: Path) -> bytes:
    with Image.open(path) as photo:
        width, height = photo.size
        kept_width, kept_height = min(width, height * 4 // 3), min(height, width * 3 // 4)
        left, top = (width - kept_width) // 2, (height - kept_height) // 2
        crop = photo.convert("RGB").resize(_SIZE, box=(left, top, left + kept_width, top + kept_height))
    buffer = BytesIO()
    crop.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
