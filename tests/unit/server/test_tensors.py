"""Tensors come back from their bytes, and what does not add up is refused before memory is taken."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.refusals import refusal

from retinue_server.errors import InvalidRequestError
from retinue_server.tensors import (
    BYTES,
    DTYPES,
    Array,
    TensorSpec,
    classification,
    count_elements,
    datatype_of,
    from_bytes,
    from_values,
    stacked,
    to_bytes,
)

NUMERIC = [datatype for datatype in DTYPES if datatype != BYTES]
SHAPES = st.lists(st.integers(0, 4), max_size=4)
# Of each type the least, the largest, and what lies between.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 7, 255],
    "UINT16": [0, 7, 65_535],
    "UINT32": [0, 7, 2**32 - 1],
    "UINT64": [0, 7, 2**64 - 1],
    "INT8": [-128, 7, 127],
    "INT16": [-(2**15), 7, 2**15 - 1],
    "INT32": [-(2**31), 7, 2**31 - 1],
    "INT64": [-(2**63), 7, 2**63 - 1],
    "FP16": [-65_504.0, 0.5, math.inf],
    "FP32": [-0.25, 1.5, -math.inf],
    "FP64": [-1e300, 1e-300, 0.1],
    BYTES: [b"", b"a", bytes(range(256))],
}
BYTES_OF_TWO = b"\x02\0\0\0ab\x01\0\0\0c"


def with_lengths(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


# Types and shapes


def test_every_type_has_its_name_and_every_name_its_type() -> None:
    assert [datatype_of(dtype) for dtype in DTYPES.values()] == list(DTYPES)
    assert datatype_of(np.zeros(1, np.float32).dtype) == "FP32"


def test_a_spec_is_told_by_type_and_shape() -> None:
    assert str(TensorSpec("scores", "FP32", (-1, 100))) == "FP32 [-1, 100]"


@pytest.mark.parametrize(
    ("shape", "count"), [([], 1), ([3], 3), ([2, 3, 4], 24), ([5, 0], 0), ([2**40, 2**40, 3], 3 * 2**80)]
)
def test_elements_are_counted_without_overflow(shape: list[int], count: int) -> None:
    assert count_elements("images", "UINT8", shape) == count


@pytest.mark.parametrize("datatype", ["", "BF16", "fp32", "STRING", "TYPE_FP32", "x" * 10_000])
def test_an_unknown_type_is_refused_with_the_known_ones(datatype: str) -> None:
    message = refusal("DATATYPE_UNKNOWN", lambda: count_elements("images", datatype, [1]))
    assert f"'{datatype[:32]}'" in message
    assert "use one of BOOL, UINT8" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "shape",
    [[-1], [2, -1], [-2, -3], [-(2**63)], [0, -1], [1] * 40, [0] * 40, [2**62] * 10_000],
    ids=lambda shape: f"{len(shape)}-{shape[-1]}",
)
def test_sizes_below_nothing_and_too_many_dimensions_are_refused(shape: list[int]) -> None:
    for make in (
        lambda: count_elements("images", "FP32", shape),
        lambda: from_bytes("images", "FP32", shape, bytes(4)),
        lambda: from_bytes("images", BYTES, shape, with_lengths(b"a")),
        lambda: from_values("images", "FP32", shape, [1.0]),
    ):
        message = refusal("SHAPE_INVALID", make)
        assert "give at most 32 sizes, each 0 or more" in message
        assert len(message) < 1000


def test_as_many_dimensions_as_are_taken_are() -> None:
    assert from_bytes("images", "UINT8", [1] * 32, b"\x07").shape == (1,) * 32


def test_a_long_name_is_cut_in_messages() -> None:
    name = "n" * 10_000
    for message in (
        refusal("DATATYPE_UNKNOWN", lambda: count_elements(name, "BF16", [1])),
        refusal("SHAPE_INVALID", lambda: count_elements(name, "FP32", [-1])),
        refusal("TENSOR_SIZE_MISMATCH", lambda: from_bytes(name, "FP32", [1], b"")),
        refusal("VALUE_OUT_OF_RANGE", lambda: from_values(name, "UINT8", [1], [256])),
        refusal("TOO_MANY_ELEMENTS", lambda: from_bytes(name, BYTES, [2**40], b"")),
    ):
        assert f"'{'n' * 128}'" in message
        assert len(message) < 500


# Bytes


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_type_comes_back_from_its_bytes(datatype: str) -> None:
    array = from_values("x", datatype, [3, 1], VALUES[datatype])
    assert (array.dtype, array.shape) == (DTYPES[datatype], (3, 1))
    again = from_bytes("x", datatype, [1, 3], to_bytes(array))
    assert (again.dtype, again.shape) == (DTYPES[datatype], (1, 3))
    assert again.ravel().tolist() == VALUES[datatype]


@pytest.mark.parametrize(
    ("datatype", "raw", "value"),
    [
        ("UINT16", b"\x01\x00", 1),
        ("INT32", b"\xfe\xff\xff\xff", -2),
        ("UINT64", b"\x01" + bytes(7), 1),
        ("FP16", b"\x00\x3c", 1.0),
        ("FP32", b"\x00\x00\x80\x3f", 1.0),
        ("FP64", bytes(6) + b"\xf0\x3f", 1.0),
        ("BOOL", b"\x01", True),
        (BYTES, b"\x02\x00\x00\x00hi", b"hi"),
    ],
)
def test_bytes_are_little_endian(datatype: str, raw: bytes, value: object) -> None:
    array = from_bytes("x", datatype, [1], raw)
    assert array[0] == value
    assert to_bytes(array) == raw


def test_the_last_dimension_is_first_to_change() -> None:
    assert from_bytes("x", "UINT8", [2, 3], bytes(range(6))).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert from_bytes("x", BYTES, [1, 2], BYTES_OF_TWO).tolist() == [[b"ab", b"c"]]
    assert to_bytes(np.arange(6, dtype=np.uint8).reshape(3, 2).T) == bytes((0, 2, 4, 1, 3, 5))


def test_numbers_are_a_view_of_what_came() -> None:
    raw = np.arange(8, dtype=np.uint8)
    assert np.shares_memory(from_bytes("x", "UINT32", [2], raw), raw)
    assert from_bytes("x", BYTES, [2], np.frombuffer(BYTES_OF_TWO, np.uint8)).tolist() == [b"ab", b"c"]


def test_whatever_is_not_zero_is_true_and_becomes_one() -> None:
    array = from_bytes("x", "BOOL", [4], b"\x00\x01\x02\xff")
    assert array.tolist() == [False, True, True, True]
    assert to_bytes(array) == b"\x00\x01\x01\x01"


@pytest.mark.parametrize("datatype", DTYPES)
def test_a_tensor_of_nothing_has_no_bytes(datatype: str) -> None:
    array = from_bytes("x", datatype, [0, 3], b"")
    assert (array.shape, to_bytes(array)) == ((0, 3), b"")
    refusal("TENSOR_SIZE_MISMATCH", lambda: from_bytes("x", datatype, [0, 3], b"\x00"))


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("surplus", [-1, 1])
def test_bytes_too_many_or_too_few_for_the_shape_are_refused(datatype: str, surplus: int) -> None:
    size = 6 * DTYPES[datatype].itemsize
    message = refusal(
        "TENSOR_SIZE_MISMATCH", lambda: from_bytes("scores", datatype, [2, 3], bytes(size + surplus))
    )
    assert message == f"input 'scores' has {size + surplus} bytes, but {datatype} [2, 3] has {size}."


@pytest.mark.parametrize("shape", [[2**40, 2**40, 3], [2**63 - 1], [2**32, 2**32], [2**62, 4]])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "FP64", "BOOL"])
def test_a_huge_shape_with_little_data_is_refused_and_takes_no_memory(
    shape: list[int], datatype: str
) -> None:
    refusal("TENSOR_SIZE_MISMATCH", lambda: from_bytes("x", datatype, shape, bytes(12)))
    refusal("TENSOR_SIZE_MISMATCH", lambda: from_bytes("x", datatype, shape, b""))
    refusal("TENSOR_SIZE_MISMATCH", lambda: from_values("x", datatype, shape, [1]))
    refusal("TOO_MANY_ELEMENTS", lambda: from_bytes("x", BYTES, shape, with_lengths(b"a")))


def test_more_elements_of_bytes_than_are_taken_are_refused_before_one_is_made() -> None:
    message = refusal("TOO_MANY_ELEMENTS", lambda: from_bytes("x", BYTES, [1_000_001], b""))
    assert "at most 1000000 are taken; split the request" in message


@pytest.mark.parametrize(
    ("raw", "count", "ended"),
    [
        (b"", 1, 0),
        (with_lengths(b"a"), 2, 1),
        (with_lengths(b"a", b"b", b"c"), 2, 2),
        (b"\x05\0\0\0abc", 1, 0),
        (b"\x01\0\0", 1, 0),
        (with_lengths(b"a") + b"\x01\0\0\0", 2, 1),
        (with_lengths(b"a") + b"\x01\0\0", 2, 1),
        (with_lengths(b"a") + b"x", 1, 1),
        (b"\xff\xff\xff\xffabc", 1, 0),
        (with_lengths(b"ab")[:-1], 1, 0),
    ],
)
def test_elements_of_bytes_that_do_not_end_where_the_bytes_do_are_refused(
    raw: bytes, count: int, ended: int
) -> None:
    message = refusal("TENSOR_SIZE_MISMATCH", lambda: from_bytes("images", BYTES, [count], raw))
    assert f"{len(raw)} bytes, in which {ended} elements of BYTES end, but its shape has {count}" in message
    assert "put each one's length before it, in four bytes, little endian" in message


def test_text_is_written_as_utf_8() -> None:
    assert to_bytes(np.array(["ü", b"\xff"], object)) == b"\x02\0\0\0\xc3\xbc\x01\0\0\0\xff"


@given(st.sampled_from(NUMERIC), SHAPES, st.data())
def test_bytes_become_a_tensor_and_the_same_bytes(datatype: str, shape: list[int], data: Any) -> None:
    size = math.prod(shape) * DTYPES[datatype].itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    if datatype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    array = from_bytes("x", datatype, shape, raw)
    assert (array.dtype, array.shape) == (DTYPES[datatype], tuple(shape))
    assert to_bytes(array) == raw


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_elements_of_bytes_become_a_tensor_and_the_same_bytes(elements: list[bytes]) -> None:
    raw = with_lengths(*elements)
    array = from_bytes("x", BYTES, [len(elements), 1], raw)
    assert array.ravel().tolist() == elements
    assert to_bytes(array) == raw


@given(st.sampled_from([*DTYPES, "BF16"]), st.lists(st.integers(-1, 3), max_size=34), st.binary(max_size=64))
def test_any_bytes_become_a_tensor_of_the_shape_or_are_refused(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    try:
        array = from_bytes("x", datatype, shape, raw)
    except InvalidRequestError:
        return
    assert (array.dtype, array.shape) == (DTYPES[datatype], tuple(shape))
    assert datatype == "BOOL" or to_bytes(array) == raw


# Values one by one


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_values_too_many_or_too_few_for_the_shape_are_refused(values: list[int]) -> None:
    message = refusal("TENSOR_SIZE_MISMATCH", lambda: from_values("scores", "INT32", [2, 1], values))
    assert message == f"input 'scores' has {len(values)} elements, but [2, 1] has 2."


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("UINT16", 65_536),
        ("UINT32", 2**32),
        ("UINT64", 2**64),
        ("INT8", 128),
        ("INT8", -129),
        ("INT16", 2**15),
        ("INT32", -(2**31) - 1),
        ("INT64", 2**63),
        ("FP32", "one"),
        ("INT32", None),
    ],
)
def test_a_value_outside_of_its_types_range_is_refused(datatype: str, value: object) -> None:
    message = refusal("VALUE_OUT_OF_RANGE", lambda: from_values("scores", datatype, [2], [1, value]))
    assert f"input 'scores' has a value that is no {datatype}" in message


# Rows and classes


@pytest.mark.parametrize("count", [1, 3])
def test_rows_become_one_tensor(count: int) -> None:
    rows = [np.full((2, 2), number, np.float32) for number in range(count)]
    made = stacked(rows)
    assert made.shape == (count, 2, 2)
    assert made[:, 0, 0].tolist() == list(range(count))


def classes(
    values: Sequence[Any] | Array, labels: Sequence[str] = ("red", "green", "blue"), top_k: int = 2
) -> Any:
    return classification(np.asarray(values), labels, top_k).tolist()


def test_the_largest_values_are_named_largest_first() -> None:
    made = classification(np.array([0.25, 0.5, 0.125], np.float32), ["red", "green", "blue"], 2)
    assert (made.dtype, made.shape) == (np.dtype(object), (2,))
    assert made.tolist() == [b"0.500000:1:green", b"0.250000:0:red"]


def test_of_equal_values_the_first_is_named_first() -> None:
    assert classes([0.5, 0.5, 0.5], top_k=3) == [b"0.500000:0:red", b"0.500000:1:green", b"0.500000:2:blue"]
    # Sorts that keep no order keep it where there are few.
    many = np.arange(1000) % 2
    assert classes(many, labels=[], top_k=1000) == [
        f"{value}.000000:{index}".encode() for value in (1, 0) for index in range(value, 1000, 2)
    ]


def test_where_there_is_no_label_it_is_left_out() -> None:
    assert classes([0.25, 0.5], labels=["red"]) == [b"0.500000:1", b"0.250000:0:red"]
    assert classes([0.25, 0.5], labels=[]) == [b"0.500000:1", b"0.250000:0"]


@pytest.mark.parametrize("top_k", [2, 3, 2**64 - 1])
def test_more_classes_than_there_are_means_all(top_k: int) -> None:
    assert classes([0.25, 0.5], top_k=top_k) == [b"0.500000:1:green", b"0.250000:0:red"]


def test_a_value_that_is_no_number_comes_last() -> None:
    assert classes([math.nan, -math.inf, 0.5], top_k=3) == [
        b"0.500000:2:blue",
        b"-inf:1:green",
        b"nan:0:red",
    ]


@pytest.mark.parametrize("datatype", [datatype for datatype in NUMERIC if datatype != "BOOL"])
def test_values_of_every_type_of_number_are_ordered(datatype: str) -> None:
    values = np.array([0, 7, 100], DTYPES[datatype])
    assert classes(values, top_k=1) == [b"100.000000:2:blue"]
    assert classes(values, top_k=3)[2] == b"0.000000:0:red"


def test_the_index_of_a_table_counts_all_its_values() -> None:
    assert classes([[1, 2], [9, 3]], labels=[], top_k=1) == [b"9.000000:2"]


def test_a_label_is_written_as_utf_8() -> None:
    assert classes([1.0], labels=["grün"]) == ["1.000000:0:grün".encode()]


@pytest.mark.parametrize("shape", [[0, 2**63 - 1], [0, 2**62, 2**62], [2**62, 2**62, 0]])
@pytest.mark.parametrize("datatype", ["FP32", BYTES])
def test_a_huge_shape_of_nothing_is_refused(shape: list[int], datatype: str) -> None:
    refusal("SHAPE_INVALID", lambda: from_bytes("x", datatype, shape, b""))
    refusal("SHAPE_INVALID", lambda: from_values("x", datatype, shape, []))


def test_large_whole_numbers_are_ordered_exactly() -> None:
    named = classification(np.array([2**53, 2**53 + 1], np.int64), [], 1)
    assert named[0].endswith(b":1")
