"""What decoding takes is known before, so that all of it together can be bounded."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from retinue_server.errors import ImageError
from retinue_server.vision.decode import open_encoded, open_raw
from retinue_server.vision.readers import InputPixels
from retinue_server.vision.resize import ResizeMode, prepare
from retinue_server.vision.room import ROOM, Room, decoding_bytes
from retinue_server.vision.spec import InputSpec

_SIDE = 2000
_SPEC = InputSpec(64, 64, False, ResizeMode.STRETCH, Image.Resampling.BICUBIC)
_ROTATED = Image.Exif()
_ROTATED[0x0112] = 6
# In a process of its own: pages that others have freed would hide what is taken.
_MEASURE = """
import json, sys
import numpy as np
from pathlib import Path
from retinue_server.runtime.memory import give_back_freed, share_heaps
from retinue_server.vision.crops import cut
from retinue_server.vision.decode import open_encoded
from retinue_server.vision.resize import prepare
from retinue_server.vision.room import decoding_bytes
from tests.unit.vision.test_room import _SIDE, _SPEC

def resident(key):
    return 1024 * int(Path("/proc/self/status").read_text().partition(key + ":")[2].split()[0])

share_heaps(1)
data = sys.stdin.buffer.read()
out = np.zeros((_SPEC.height, _SPEC.width, 3), np.uint8)
ways = [
    lambda image: prepare(image, _SPEC, out),
    lambda image: cut(image, [(0, 0, _SIDE, _SIDE)], _SPEC),
]
small = open_encoded(Path(sys.argv[1]).read_bytes(), max_pixels=10**9)
prepare(small, _SPEC, out)
found = []
for number, way in enumerate(ways):
    give_back_freed()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    image = open_encoded(data, max_pixels=10**9)
    promised = decoding_bytes(image, _SPEC, whole=number == 1)
    way(image)
    found.append([resident("VmHWM") - before, promised])
print(json.dumps(found))
"""


def _picture(mode: str, side: int) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    levels = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, channels), np.uint8)
    pixels = np.kron(levels, np.ones((8, 8, 1), np.uint8))
    return Image.fromarray(pixels.squeeze(), mode) if mode == "CMYK" else Image.fromarray(pixels.squeeze())


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


WORST: dict[str, Callable[[int], bytes]] = {
    "JPEG": lambda side: _saved(_picture("RGB", side), "JPEG", exif=_ROTATED),
    "progressive JPEG": lambda side: _saved(
        _picture("RGB", side), "JPEG", exif=_ROTATED, progressive=True, subsampling=0
    ),
    "progressive CMYK JPEG": lambda side: _saved(_picture("CMYK", side), "JPEG", progressive=True),
    "PNG with transparency": lambda side: _saved(
        _picture("RGBA", side), "PNG", exif=_ROTATED, compress_level=1
    ),
    "lossless WebP": lambda side: _saved(
        _picture("RGBA", side), "WEBP", exif=_ROTATED, lossless=True, method=0
    ),
    "animated WebP": lambda side: _saved(
        _picture("RGBA", side),
        "WEBP",
        save_all=True,
        append_images=[Image.new("RGBA", (side, side))],
        method=0,
    ),
    "GIF with transparency": lambda side: _saved(
        Image.fromarray(np.asarray(_picture("L", side))), "GIF", transparency=3
    ),
    "BMP": lambda side: _saved(_picture("RGB", side), "BMP"),
    "TIFF of floats": lambda side: _saved(
        Image.fromarray(np.asarray(_picture("L", side)).astype(np.float32) / 255),
        "TIFF",
        tiffinfo=_turned(),
        compression="tiff_adobe_deflate",
    ),
    "TIFF with transparency": lambda side: _saved(_picture("RGBA", side), "TIFF", tiffinfo=_turned()),
}


def _turned() -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    return tags


@pytest.mark.parametrize("what", WORST)
def test_no_image_takes_more_than_is_said_before(what: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(WORST[what](64))
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, small], input=WORST[what](_SIDE), capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr.decode()
    for taken, promised in json.loads(run.stdout):
        # What a library takes by itself, whatever the image.
        assert taken < promised + 2_000_000
        # Not so much more that half of the room stays empty, but for those formats in which most images take less.
        assert taken > promised / 3


def test_a_jpeg_that_is_decoded_small_takes_little() -> None:
    data = _saved(Image.new("RGB", (4096, 4096)), "JPEG")
    image = open_encoded(data, max_pixels=10**9)
    full = decoding_bytes(image, _SPEC)
    image.draft("RGB", (512, 512))
    assert decoding_bytes(image, _SPEC) < full / 16
    progressive = open_encoded(
        _saved(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True), max_pixels=10**9
    )
    progressive.draft("RGB", (512, 512))
    # Its coefficients are all kept.
    assert decoding_bytes(progressive, _SPEC, stored_pixels=4096 * 4096) > 4096 * 4096 * 6


def test_pixels_that_are_there_already_take_none() -> None:
    assert decoding_bytes(InputPixels(np.zeros((64, 64, 3), np.uint8)), _SPEC) == 0
    assert decoding_bytes(Image.new("RGB", (64, 64)), _SPEC) == 0


def test_a_thin_image_takes_what_its_stretched_rows_take() -> None:
    wide = InputSpec(1024, 1024, False, ResizeMode.STRETCH, Image.Resampling.BILINEAR)
    thin = open_raw(bytes(3 * 60_000), 60_000, 1, "RGB", max_pixels=10**6)
    assert decoding_bytes(thin, wide) > 4 * 1024 * 60_000


def test_images_wait_until_there_is_room_in_the_order_in_which_they_came() -> None:
    room = Room(100)
    entered: list[int] = []
    threads = []

    def enter(size: int) -> None:
        with room.taken(size):
            entered.append(size)
            assert room.taken_bytes <= 100

    with room.taken(60):
        # The small one would fit, but the large one came before.
        for size in (70, 5):
            thread = threading.Thread(target=enter, args=(size,))
            thread.start()
            threads.append(thread)
            while room.waiting < len(threads):
                pass
        assert entered == []
    for thread in threads:
        thread.join()
    assert entered == [70, 5]
    assert room.taken_bytes == 0


def test_what_never_fits_is_refused_and_what_takes_nothing_never_waits() -> None:
    room = Room(100)
    with pytest.raises(ImageError) as refused, room.taken(101):
        pass
    assert refused.value.reason == "IMAGE_TOO_LARGE"
    assert "at most 100 are set aside" in refused.value.message
    with room.taken(100), room.taken(0):
        pass


def test_room_is_given_back_by_images_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROOM, "max_bytes", 10**9)
    data = _saved(_picture("RGB", 256), "JPEG")
    for broken in (data[: len(data) // 2], data):
        image = open_encoded(broken, max_pixels=10**6)
        out = np.zeros((64, 64, 3), np.uint8)
        if broken is data:
            prepare(image, _SPEC, out)
        else:
            with pytest.raises(ImageError):
                prepare(image, _SPEC, out)
        assert ROOM.taken_bytes == 0
