import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests import pictures

from retinue_server.errors import ImageError
from retinue_server.vision.crops import PixelBox, cut, pixel_box
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.resize import prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

BILINEAR = Image.Resampling.BILINEAR
SPECS = {
    "stretched grey": InputSpec(28, 28, True, ResizeMode.STRETCH, BILINEAR),
    "letterboxed": InputSpec(24, 32, False, ResizeMode.LETTERBOX, BILINEAR, pad_value=114),
    "centre": InputSpec(16, 16, False, ResizeMode.SHORTER_SIDE_CENTER_CROP, BILINEAR, shorter_side=20),
    "drafted": InputSpec(8, 8, False, ResizeMode.STRETCH, BILINEAR, draft_decoding=True),
}
BOXES: list[PixelBox] = [(0, 0, 64, 48), (3, 5, 31, 11), (63, 47, 64, 48), (0, 0, 1, 48), (10, 0, 26, 16)]
NOISE = np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)
MOST_PIXELS = 10**6


@pytest.mark.parametrize(
    ("box", "context", "expected"),
    [
        ((1.2, 2.0, 3.0, 4.1), 0, (1, 2, 3, 5)),
        ((1.2, 2.2, 1.4, 2.3), 0, (1, 2, 2, 3)),
        ((0, 0, 10, 8), 0, (0, 0, 10, 8)),
        ((2, 2, 6, 4), 0.5, (0, 1, 8, 5)),
        ((2, 2, 6, 4), 1, (0, 0, 10, 6)),
        ((-5, -5, 20, 20), 0, (0, 0, 10, 8)),
        ((9.9, 7.9, 10, 8), 0, (9, 7, 10, 8)),
        # Nothing of it is in the image, though what surrounds it may be.
        ((10, 0, 12, 8), 0, None),
        ((-3, 0, 0, 8), 0, None),
        ((10.5, 0, 12.5, 8), 0.5, (9, 0, 10, 8)),
        # No area.
        ((4, 2, 4, 5), 0.5, None),
        ((6, 2, 4, 5), 0, None),
        ((math.nan, 2, 4, 5), 0, None),
        ((0, 2, math.inf, 5), 0.5, None),
    ],
)
def test_a_box_is_cut_at_the_pixels_it_touches(
    box: tuple[float, float, float, float], context: float, expected: PixelBox | None
) -> None:
    assert pixel_box(box, context, 10, 8) == expected


def file_of(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    return pictures.encode(image, file_format, **options)


FILES = {
    "png": file_of(PICTURE),
    "jpeg": file_of(PICTURE, "JPEG", quality=95),
    "grey": file_of(PICTURE.convert("L")),
    "palette": file_of(PICTURE.quantize(16)),
    "transparent": file_of(Image.merge("RGBA", (*PICTURE.split(), PICTURE.convert("L")))),
    "ink": file_of(PICTURE.convert("CMYK"), "JPEG"),
    **{f"turned {number}": pictures.turned_file(PICTURE, number, "JPEG") for number in (2, 3, 4, 5, 6, 7, 8)},
}


def seen(data: bytes) -> Image.Image:
    """The picture as a person sees it."""
    with Image.open(io.BytesIO(data)) as picture:
        upright = ImageOps.exif_transpose(picture)
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", FILES)
def test_a_part_is_what_the_same_pixels_are_as_a_raw_image(name: str, kind: str) -> None:
    spec, data = SPECS[kind], FILES[name]
    upright = seen(data)
    inputs = cut(open_encoded(data, max_pixels=MOST_PIXELS), BOXES, spec)
    assert inputs.shape == (len(BOXES), spec.height, spec.width, spec.channels)
    for box, made in zip(BOXES, inputs, strict=True):
        part = upright.crop(box)
        expected = np.empty_like(made)
        prepare(
            open_raw(part.tobytes(), part.height, part.width, "RGB", max_pixels=MOST_PIXELS), spec, expected
        )
        # Where Pillow lays colours on white by another formula, a level may be rounded the other way.
        most = 1 if name == "transparent" else 0
        assert np.abs(made.astype(int) - expected).max() <= most


def test_raw_pixels_are_cut_in_their_own_order() -> None:
    spec = SPECS["letterboxed"]
    sent = {
        "RGB": NOISE,
        "BGR": NOISE[..., ::-1],
        "RGBA": np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)]),
    }
    made = [
        cut(open_raw(pixels.tobytes(), 48, 64, order, max_pixels=MOST_PIXELS), BOXES, spec)  # type: ignore[arg-type]
        for order, pixels in sent.items()
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_an_image_that_ends_early_is_refused_and_let_go() -> None:
    image = open_encoded(FILES["jpeg"][:-600], max_pixels=MOST_PIXELS)
    with pytest.raises(ImageError) as refusal:
        cut(image, BOXES, SPECS["centre"])
    assert refusal.value.reason == "IMAGE_UNDECODABLE"
    with pytest.raises((ValueError, AttributeError, OSError)):
        image.load()
