from typing import Any

import pytest
from google.protobuf.message import DecodeError
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc.wire import check_fields

MIB = 1 << 20
MOST = 4
_EMPTY_IMAGE, _EMPTY_CLASS = b"\x1a\x00", b"\x32\x00"


class CountedBytes(bytes):
    """Bytes that count how often a part of them is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def _image(payload: bytes) -> bytes:
    """A request of one image of less than 16 KiB."""
    return b"\x1a" + bytes((len(payload) & 0x7F | 0x80, len(payload) >> 7)) + payload


HONEST = {
    "nothing": pb.ClassifyRequest(),
    "no images": pb.ClassifyRequest(model="a", version=3, top_k=5, min_score=0.5),
    "as many images as are taken": pb.ClassifyRequest(images=[image_pb2.Image(encoded=b"x")] * MOST),
    "a large image": pb.SegmentRequest(images=[image_pb2.Image(encoded=bytes(MIB))], mask_size=2),  # type: ignore[arg-type]
    "pixels": pb.DetectRequest(
        images=[
            image_pb2.Image(raw=image_pb2.RawImage(data=bytes(300), height=10, width=10, channel_order=1))
        ]  # type: ignore[arg-type]
    ),
    "regions": pb.DetectRequest(
        images=[image_pb2.Image(encoded=b"x", regions=[image_pb2.BoundingBox(x_max=2, y_max=2)] * 4096)]
        * MOST
    ),
    "the classes of a large vocabulary": pb.DetectRequest(
        classes=[f"class {number}" for number in range(4000)]
    ),
    "another method's": pb.GetModelRequest(model="a", version=1),
    # Its number is that of images elsewhere.
    "another method's label": pb.GetModelRequest(model="a", version_label="canary"),
}

TOO_MUCH = {
    "images": (_EMPTY_IMAGE * MIB, "TOO_MANY_IMAGES", f"at most {MOST} are taken; split it"),
    "classes": (_EMPTY_CLASS * MIB, "TOO_MANY_FIELDS", "name fewer classes"),
    "unknown fields": (b"\x78\x01" * MIB, "TOO_MANY_FIELDS", "more than 4096 fields"),
    "classes before images": (
        (_EMPTY_CLASS + _EMPTY_IMAGE) * MIB,
        "TOO_MANY_IMAGES",
        f"at most {MOST} are taken",
    ),
    "images in a group": (b"\x7b" + _EMPTY_IMAGE * MIB + b"\x7c", "TOO_MANY_IMAGES", f"at most {MOST}"),
    "regions of one image": (
        b"\x1a\x80\x80\x80\x01" + b"\x1a\x00" * MIB,
        "TOO_MANY_REGIONS",
        "more than 16384 regions; split it",
    ),
    "regions of all images": (
        _image(b"\x1a\x00" * 8000) * MOST,
        "TOO_MANY_REGIONS",
        "more than 16384 regions; split it",
    ),
    "sources of one image": (
        _image(b"\x12\x00\x0a\x00" * 4000),
        "TOO_MANY_FIELDS",
        "`encoded` or `raw`, once",
    ),
}

UNREADABLE = {
    "a tag without an end": b"\xff" * MIB,
    "a tag that is cut off": b"\x9a",
    "a length that is cut off": b"\x1a\x80",
    "an image that is cut off": b"\x1a\x05abc",
    "a number that is cut off": b"\x20\x80",
    "eight bytes that are cut off": b"\x79abc",
    "four bytes that are cut off": b"\x7dabc",
    "a length of 2**63": b"\x1a" + b"\xff" * 8 + b"\x7f",
    "an unknown wire type": b"\x1f",
    "an image's tag that reaches into the next one": b"\x1a\x01\x9a\x1a\x00",
}


@pytest.mark.parametrize("what", HONEST)
def test_an_honest_request_passes(what: str) -> None:
    request = HONEST[what]
    check_fields(
        request.SerializeToString(), request.DESCRIPTOR.name.removesuffix("Request"), max_images=MOST
    )


def test_every_kind_of_field_is_passed_over() -> None:
    kinds = {
        "varint": b"\x78\xff\xff\x01",
        "eight bytes": b"\x7912345678",
        "length": b"\x7a\x03abc",
        "group": b"\x7b\x08\x01\x7c",
        "four bytes": b"\x7d1234",
    }
    check_fields(b"".join(kinds.values()) + _EMPTY_IMAGE * MOST, max_images=MOST)
    with pytest.raises(InvalidRequestError):
        check_fields(b"".join(kinds.values()) + _EMPTY_IMAGE * (MOST + 1), max_images=MOST)


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_request_of_too_many_fields_is_refused_after_a_look_at_the_first_ones(what: str) -> None:
    content, reason, advice = TOO_MUCH[what]
    data = CountedBytes(content)
    with pytest.raises(InvalidRequestError) as refused:
        check_fields(data, max_images=MOST)
    assert refused.value.reason == reason
    assert advice in refused.value.message
    assert data.looks < 60_000


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_message_is_told_from_one(what: str) -> None:
    with pytest.raises(DecodeError):
        check_fields(UNREADABLE[what], max_images=MOST)
    with pytest.raises(DecodeError):
        pb.ClassifyRequest.FromString(UNREADABLE[what])
