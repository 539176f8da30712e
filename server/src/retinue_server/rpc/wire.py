"""The bytes of a request, before protobuf takes them apart.

Protobuf has no limits: an image of two bytes takes 48 of memory when it is read, so that a request of the largest size
taken would cost gigabytes before anybody could count its images.
"""

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_server.errors import InvalidRequestError

# The same in all requests that have images; in others it is another field's.
_IMAGES = pb.ClassifyRequest.IMAGES_FIELD_NUMBER
_WITH_IMAGES = frozenset(
    method.name
    for method in pb.DESCRIPTOR.services_by_name["VisionService"].methods
    if "images" in method.input_type.fields_by_name
)
# Names of classes, above all.
_MOST_OTHER_FIELDS = 4096
# Besides regions it has one; later versions may have more.
_MOST_IMAGE_FIELDS = 16
_REGIONS = image_pb2.Image.REGIONS_FIELD_NUMBER
# Of all images together.
_MOST_REGIONS = 16384

_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)
_VARINT_BYTES = 10


def check_fields(data: bytes, method: str = "Classify", *, max_images: int) -> None:
    """Refuses a request that would take many times its size in memory; looks no further than it must to see that.

    Args:
        data: A request as it came.
        method: The RPC's name.
        max_images: More are refused.

    Raises:
        InvalidRequestError: It has too many images, regions or other fields.
        DecodeError: It is no message at all.
    """
    images = regions = others = 0
    for number, start, end in fields(data, 0, len(data)):
        if number != _IMAGES or method not in _WITH_IMAGES:
            others += 1
        else:
            images += 1
            regions += _count_regions(data, start, end, images - 1)
        if images > max_images:
            raise InvalidRequestError(
                f"the request has too many images: at most {max_images} are taken; split it into several.",
                reason="TOO_MANY_IMAGES",
            )
        if regions > _MOST_REGIONS:
            raise InvalidRequestError(
                f"the request has more than {_MOST_REGIONS} regions; split it into several.",
                reason="TOO_MANY_REGIONS",
            )
        if others > _MOST_OTHER_FIELDS:
            raise InvalidRequestError(
                f"the request has more than {_MOST_OTHER_FIELDS} fields besides its images; name fewer classes, or "
                "none for all.",
                reason="TOO_MANY_FIELDS",
            )


def _count_regions(data: bytes, start: int, end: int, image: int) -> int:
    """Counts an image's regions, up to one more than a whole request may have.

    Raises:
        InvalidRequestError: The image has too many other fields.
    """
    regions = others = 0
    for number, _, _ in fields(data, start, end):
        if number == _REGIONS:
            regions += 1
        else:
            others += 1
        if others > _MOST_IMAGE_FIELDS:
            raise InvalidRequestError(
                f"image {image} has more than {_MOST_IMAGE_FIELDS} fields besides its regions; set `encoded` or "
                "`raw`, once.",
                reason="TOO_MANY_FIELDS",
            )
        if regions > _MOST_REGIONS:
            break
    return regions


def fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, and start and end of the payload, of each field between two positions.

    Only what has a length has a payload here; the fields of a group are yielded as if they stood outside of it.
    Source: protobuf.dev, Encoding.
    """
    while position < end:
        tag, position = _varint(data, position)
        kind = tag & 7
        length = 0
        if kind == _LENGTH:
            length, position = _varint(data, position)
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind not in (_GROUP, _END_GROUP):
            raise DecodeError("unknown wire type")
        if position > end:
            raise DecodeError("a field is longer than its message")
        yield tag >> 3, position - length, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads an integer; returns it and the position after it."""
    # Nearly all are of one byte, and a request may have tens of thousands.
    if position < len(data) and (first := data[position]) < 0x80:
        return first, position + 1
    value = 0
    for index, byte in enumerate(data[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise DecodeError("an integer has no end")
