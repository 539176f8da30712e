"""Images that cannot be read: each fails alone, with a reason, and its neighbours are answered."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from retinue.v1 import image_pb2
from tests import pictures
from tests.calls import Connection, encoded, flat, refused_image
from tests.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("still_answering")

_MIB = 1 << 20
_PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
_FILES = {name: pictures.encode(_PHOTO, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")}
_FILES["progressive JPEG"] = pictures.encode(_PHOTO, "JPEG", progressive=True)


def _raw_bytes(data: bytes, height: int, width: int, order: int = 0) -> image_pb2.Image:
    return image_pb2.Image(
        raw=image_pb2.RawImage(data=data, height=height, width=width, channel_order=order)  # type: ignore[arg-type]
    )


def _damaged_png() -> bytes:
    data = bytearray(_FILES["PNG"])
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


# What it is: how it is made, its reason, and a word of the message that says what to do.
BAD_IMAGES: dict[str, tuple[Callable[[], image_pb2.Image], str, str]] = {
    "no source": (image_pb2.Image, "IMAGE_EMPTY", "set `encoded` or `raw`"),
    "no bytes": (lambda: encoded(b""), "IMAGE_EMPTY", "Send the content of an image file"),
    "one byte": (lambda: encoded(b"\xff"), "IMAGE_UNDECODABLE", "Send JPEG, PNG"),
    "text": (lambda: encoded(b"a picture of a cat"), "IMAGE_UNDECODABLE", "Send JPEG, PNG"),
    "PDF": (lambda: encoded(b"%PDF-1.7\n" + bytes(100)), "IMAGE_UNDECODABLE", "Send JPEG, PNG"),
    "SVG": (lambda: encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "IMAGE_UNDECODABLE", "Send JPEG"),
    "noise": (
        lambda: encoded(np.random.default_rng(1).bytes(5000)),
        "IMAGE_UNDECODABLE",
        "Send JPEG, PNG",
    ),
    **{
        f"truncated {name}": (
            lambda data=data: encoded(data[: len(data) // 2]),  # type: ignore[misc]
            "IMAGE_UNDECODABLE",
            "Send the whole file",
        )
        for name, data in _FILES.items()
    },
    **{
        f"only the header of a {name}": (
            lambda data=data: encoded(data[:12]),  # type: ignore[misc]
            "IMAGE_UNDECODABLE",
            "Send the whole file",
        )
        for name, data in _FILES.items()
    },
    "PNG with a damaged byte": (
        lambda: encoded(_damaged_png()),
        "IMAGE_UNDECODABLE",
        "Send the whole file",
    ),
    "raw, too few bytes": (lambda: _raw_bytes(bytes(191), 8, 8), "RAW_SIZE_MISMATCH", "192"),
    "raw, too many bytes": (lambda: _raw_bytes(bytes(193), 8, 8), "RAW_SIZE_MISMATCH", "192"),
    "raw, no bytes": (lambda: _raw_bytes(b"", 8, 8), "RAW_SIZE_MISMATCH", "192"),
    "raw RGBA with RGB's bytes": (
        lambda: _raw_bytes(bytes(192), 8, 8, image_pb2.CHANNEL_ORDER_RGBA),
        "RAW_SIZE_MISMATCH",
        "256",
    ),
    "raw, no rows": (lambda: _raw_bytes(b"", 0, 8), "IMAGE_EMPTY", "at least one row"),
    "raw, no columns": (lambda: _raw_bytes(b"", 8, 0), "IMAGE_EMPTY", "at least one row"),
    "raw, sides that overflow": (
        lambda: _raw_bytes(bytes(3), 2**32 - 1, 2**32 - 1),
        "IMAGE_TOO_LARGE",
        "Send a smaller one",
    ),
    "raw, unknown channel order": (
        lambda: _raw_bytes(bytes(192), 8, 8, 99),
        "CHANNEL_ORDER_UNKNOWN",
        "use RGB, BGR, RGBA or GRAY",
    ),
    "more pixels than are taken": (
        lambda: encoded(pictures.png_bomb(10_000, 5_001)),
        "IMAGE_TOO_LARGE",
        "Send a smaller one",
    ),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_a_bad_image_fails_alone_whatever_is_asked_of_it(what: str, colour: Connection) -> None:
    make, reason, advice = BAD_IMAGES[what]
    red, bad, blue = flat(255, 0, 0), make(), flat(0, 0, 255)

    classified = colour.classify(red, bad, blue, top_k=1).outcomes
    detected = colour.detect(red, bad, blue).outcomes
    segmented = colour.segment(red, bad, blue).outcomes

    assert [outcome.result.classes[0].label for outcome in classified[::2]] == ["red", "blue"]
    assert [outcome.result.detections[0].label for outcome in detected[::2]] == ["red", "blue"]
    assert [outcome.result.areas[0].label for outcome in segmented[::2]] == ["red", "blue"]
    for _, outcome, _ in (classified, detected, segmented):
        refusal = refused_image(outcome)
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)
        assert advice in refusal.message
        assert outcome.timing.inference_us == outcome.timing.batch_size == 0


def test_a_request_of_bad_images_alone_says_of_each_why(colour: Connection) -> None:
    response = colour.classify(encoded(b""), encoded(b"text"), image_pb2.Image())
    reasons = [refused_image(outcome).reason for outcome in response.outcomes]
    assert reasons == ["IMAGE_EMPTY", "IMAGE_UNDECODABLE", "IMAGE_EMPTY"]
    assert response.model == "colour-classifier"


def test_a_png_bomb_is_refused_from_its_header_and_memory_stays_flat(
    colour: Connection, colour_server: ServerProcess
) -> None:
    bomb = pictures.png_bomb(50_000, 50_000)
    harmless = pictures.png_bomb(500, 500)
    assert len(bomb) < 50_000**2 / 900
    images = (flat(255, 0, 0), encoded(bomb), flat(0, 0, 255), encoded(harmless))
    # At first the process grows by what a request of this size takes at all.
    for _ in range(5):
        colour.classify(*images)
    before = colour_server.memory_bytes()

    for _ in range(40):
        red, refused, blue, small = colour.classify(*images, top_k=1).outcomes
        assert [red.result.classes[0].label, blue.result.classes[0].label] == ["red", "blue"]
        # So the file is a valid one but for its size.
        assert small.HasField("result")
        refusal = refused_image(refused)
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "IMAGE_TOO_LARGE")
        assert "50000 x 50000 pixels" in refusal.message

    # Decoded, one of them would take 2,400 MiB. As files they were 94 MiB, of which none is kept.
    assert colour_server.memory_bytes() - before < 40 * _MIB


def test_an_image_of_as_many_pixels_as_are_taken_is_answered(colour: Connection) -> None:
    # --max-image-pixels is 50,000,000.
    largest = encoded(pictures.png_bomb(10_000, 5_000))
    assert colour.classify(largest).outcomes[0].HasField("result")
