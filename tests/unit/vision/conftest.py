import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from retinue_server.vision.spec import InputSpec, ResizeMode


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def photo() -> Image.Image:
    """60 x 40, smooth, its four corners of clearly different colours."""
    corners = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [220, 220, 220]]], np.uint8)
    return Image.fromarray(corners).resize((60, 40), Image.Resampling.BILINEAR)


@pytest.fixture
def colour() -> InputSpec:
    return InputSpec(24, 32, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR)


@pytest.fixture
def grey() -> InputSpec:
    return InputSpec(24, 32, True, ResizeMode.STRETCH, Image.Resampling.BILINEAR)
