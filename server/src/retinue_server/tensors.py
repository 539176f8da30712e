"""Tensors as the Open Inference Protocol has them: named types, shapes, and their elements as bytes."""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retinue_server.errors import InvalidRequestError

Array = npt.NDArray[Any]

BYTES = "BYTES"
# Of BYTES, an array holds an object of bytes for each element.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

_LENGTH = struct.Struct("<I")
# An element of two bytes takes eight times that in memory.
_MOST_BYTES_ELEMENTS = 1_000_000
_MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model says of an input or an output.

    Attributes:
        name: Its name.
        datatype: Of its elements, as the protocol calls it.
        shape: With the batch's dimension; -1 where a request may choose.
        optional: Whether a request may leave it out, or give one value for each image, [N] instead of [N,1].
        encoded: Whether it may be files of images instead, BYTES [N] or [N,1].
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    encoded: bool = False

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a NumPy type."""
    return _DATATYPES[dtype]


def count_elements(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many elements a tensor says that it has.

    Raises:
        InvalidRequestError: There is no such type, or no such shape.
    """
    if datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise InvalidRequestError(
            f"input '{name[:128]}' has the datatype '{datatype[:32]}', which is unknown here; use one of {known}.",
            reason="DATATYPE_UNKNOWN",
        )
    if (
        len(shape) > _MOST_DIMENSIONS
        or any(size < 0 for size in shape)
        # NumPy counts the other sizes of a tensor that is empty in one of them, too.
        or (0 in shape and math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS)
    ):
        raise InvalidRequestError(
            f"input '{name[:128]}' has the shape {list(shape[:_MOST_DIMENSIONS])}; give at most {_MOST_DIMENSIONS} "
            "sizes, each 0 or more, and no huge ones beside a 0.",
            reason="SHAPE_INVALID",
        )
    return math.prod(shape)


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes | npt.NDArray[np.uint8]) -> Array:
    """Makes a tensor of its elements' bytes; but for BYTES it is a view of them.

    Args:
        name: Of the input, for messages.
        datatype: As the protocol calls it.
        shape: With the batch's dimension.
        raw: Little endian, the last dimension first to change; of BYTES, each element after its length in four bytes.

    Raises:
        InvalidRequestError: There is no such type, or the bytes are too many or too few for the shape.
    """
    count = count_elements(name, datatype, shape)
    if datatype == BYTES:
        return _split(name, count, bytes(raw)).reshape(shape)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise _wrong_size(name, f"{len(raw)} bytes", f"{datatype} {list(shape)} has {count * dtype.itemsize}")
    array: Array = np.frombuffer(raw, dtype).reshape(shape)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        # Anything else is undefined behaviour in what reads it.
        array = array.view(np.uint8) != 0
    return array


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Array:
    """Makes a tensor of values one by one.

    Args:
        name: As for `from_bytes`.
        datatype: Likewise.
        shape: Likewise.
        values: Of Python's own type for the datatype, the last dimension first to change.

    Raises:
        InvalidRequestError: There is no such type, the values are too many or too few for the shape, or one is outside
            of the type's range.
    """
    count = count_elements(name, datatype, shape)
    if len(values) != count:
        raise _wrong_size(name, f"{len(values)} elements", f"{list(shape)} has {count}")
    dtype = DTYPES[datatype]
    try:
        # As in any other cast, what is too large for a float becomes infinite.
        with np.errstate(over="ignore"):
            array: Array = np.fromiter(values, dtype, count)
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"input '{name[:128]}' has a value that is no {datatype}: {error}.", reason="VALUE_OUT_OF_RANGE"
        ) from None
    return array.reshape(shape)


def to_bytes(array: Array) -> bytes:
    """The bytes of a tensor's elements, as `from_bytes` reads them; str is written as UTF-8."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(_with_length(element) for element in array.ravel())


def size_of(array: Array) -> int:
    """The bytes that `to_bytes` makes of a tensor; for str, about as many."""
    if array.dtype != object:
        return int(array.nbytes)
    return sum(_LENGTH.size + len(element) for element in array.ravel())


def stacked(rows: Sequence[Array]) -> Array:
    """Rows of one shape as one tensor, of as many as there are."""
    if len(rows) == 1:
        return rows[0][np.newaxis]
    return np.stack(rows)


def classification(row: Array, labels: Sequence[str], top_k: int) -> Array:
    """The classification extension: of an output's values the largest, each as "value:index:label".

    Args:
        row: Of numbers, any shape; for one image.
        labels: Of the classes, by index; where there are none, or too few, the label is left out.
        top_k: How many; more than there are values means all.

    Returns:
        BYTES [min(top_k, values)], the largest first.
    """
    values = row.ravel()
    # The largest first, and of equal ones the first first. What is no number NumPy takes for the largest.
    order = len(values) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
    unknown = np.count_nonzero(np.isnan(values)) if values.dtype.kind == "f" else 0
    best = np.roll(order, -unknown)[:top_k]
    named = [
        f"{values[index]:f}:{index}" + (f":{labels[index]}" if index < len(labels) else "") for index in best
    ]
    return _objects([text.encode() for text in named])


def _split(name: str, count: int, raw: bytes) -> Array:
    if count > _MOST_BYTES_ELEMENTS:
        raise InvalidRequestError(
            f"input '{name[:128]}' has {count} elements of BYTES, but at most {_MOST_BYTES_ELEMENTS} are taken; split "
            "the request.",
            reason="TOO_MANY_ELEMENTS",
        )
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) < count:
        if position + _LENGTH.size > len(raw):
            break
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size + length
        if position > len(raw):
            break
        elements.append(raw[position - length : position])
    if len(elements) != count or position != len(raw):
        raise _wrong_size(
            name,
            f"{len(raw)} bytes, in which {len(elements)} elements of BYTES end",
            f"its shape has {count}; put each one's length before it, in four bytes, little endian",
        )
    return _objects(elements)


def _objects(elements: Iterable[bytes]) -> Array:
    made = list(elements)
    array = np.empty(len(made), object)
    array[:] = made
    return array


def _with_length(element: bytes | str) -> bytes:
    raw = element.encode() if isinstance(element, str) else element
    return _LENGTH.pack(len(raw)) + raw


def _wrong_size(name: str, found: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"input '{name[:128]}' has {found}, but {wanted}.", reason="TENSOR_SIZE_MISMATCH"
    )
