import io
import random

import pytest
from PIL import Image

from retinue_client._images import upright_size
from retinue_client._score import header
from retinue_client._score.header import size_of


def jpeg(mode="RGB", size=(30, 20), orientation=None, **options):
    buffer = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.new(mode, size).save(buffer, "JPEG", **options)
    return buffer.getvalue()


FILES = {
    "plain": jpeg(),
    "progressive": jpeg(progressive=True),
    "grey": jpeg("L"),
    "cmyk": jpeg("CMYK"),
    "with a comment": jpeg(comment=b"\xff\xc0 looks like a frame"),
    "wide": jpeg(size=(5000, 7)),
    **{f"turned {number}": jpeg(orientation=number) for number in range(9)},
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_jpeg_has_the_size_that_pillow_finds_without_being_opened(data, monkeypatch):
    expected = upright_size(data)
    assert expected is not None
    monkeypatch.setattr(header, "upright_size", lambda data: pytest.fail("opened"))
    assert size_of(data) == expected


def test_other_formats_and_what_is_none_are_left_to_pillow():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PNG")
    assert size_of(buffer.getvalue()) == (30, 20)
    assert size_of(b"") is None
    assert size_of(b"\xff\xd8\xff") is None
    # Two blocks of EXIF, fill bytes between segments.
    twice = jpeg(orientation=6)
    end = 4 + int.from_bytes(twice[4:6], "big")
    twice = twice[:end] + twice[2:end] + twice[end:]
    assert size_of(twice) == upright_size(twice)
    filled = FILES["plain"][:2] + b"\xff\xff" + FILES["plain"][2:]
    assert size_of(filled) == upright_size(filled) == (30, 20)


def test_damaged_files_that_pillow_can_open_have_its_size():
    rng = random.Random(1)
    for data in FILES.values():
        for _ in range(150):
            damaged = bytearray(data)
            damaged[rng.randrange(2, min(len(data), 400))] = rng.randrange(256)
            del damaged[rng.randrange(len(damaged) // 2, len(damaged) + 1) :]
            expected = upright_size(bytes(damaged))
            if expected is not None:
                assert size_of(bytes(damaged)) == expected
