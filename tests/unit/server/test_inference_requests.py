"""What a request of the Open Inference Protocol says becomes tensors and wishes, or is refused with advice."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.refusals import refusal

from retinue_server.errors import InvalidRequestError
from retinue_server.inference import Declared
from retinue_server.rpc import inference_requests as requests
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tensors import BYTES, DTYPES, to_bytes

MOST_BYTES = 1000
REGION_BYTES = 64
SHARED = bytes(range(REGION_BYTES))

Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor

CONTENTS: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65_535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [-0.25, 1.5]),
    "FP64": ("fp64_contents", [1e-300, 0.1]),
    BYTES: ("bytes_contents", [b"", b"\x00\xff"]),
}


@pytest.fixture
def regions() -> Iterator[SharedMemoryRegions]:
    """One region, "region", of the bytes that count from 0."""
    path = Path("/dev/shm") / f"retinue-test-{uuid.uuid4().hex}"
    path.write_bytes(SHARED)
    regions = SharedMemoryRegions()
    try:
        regions.register("region", path.name, 0, REGION_BYTES)
        yield regions
    finally:
        regions.close()
        path.unlink()


def an_input(name: str, datatype: str, shape: list[int], **rest: Any) -> Input:
    return Input(name=name, datatype=datatype, shape=shape, **rest)


def typed(datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferRequest:
    one = an_input("x", datatype, shape, contents=pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(inputs=[one])


def raw(*inputs: Input, contents: list[bytes]) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(inputs=inputs, raw_input_contents=contents)


def place(size: int, offset: int = 0, region: str = "region") -> dict[str, pb.InferParameter]:
    """The parameters of a tensor in shared memory."""
    return {
        "shared_memory_region": pb.InferParameter(string_param=region),
        "shared_memory_offset": pb.InferParameter(int64_param=offset),
        "shared_memory_byte_size": pb.InferParameter(int64_param=size),
    }


def read(request: pb.ModelInferRequest, regions: SharedMemoryRegions | None = None) -> dict[str, Any]:
    requests.shared_bytes(request, MOST_BYTES)
    return {name: array.tolist() for name, array in requests.tensors(request, regions).items()}


# Versions


@pytest.mark.parametrize(("text", "number"), [("", 0), ("1", 1), ("42", 42), ("999999999", 999_999_999)])
def test_a_version_is_a_number_and_none_is_the_newest(text: str, number: int) -> None:
    assert requests.version(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "1_0",
        "0x1",
        " 1",
        "1 ",
        "1\n",
        "1\0",
        "٣",
        "１",
        "²",
        "1v",
        "-stable",
        "stable\n",
        "caf\u00e9",
        "a" * 65,
        "1000000000",
        "1" * 30,
        "9" * 10_000,
        "0" * 10_000,
    ],
)
def test_a_version_that_is_neither_a_number_from_one_nor_a_label_is_refused(text: str) -> None:
    message = refusal("VERSION_OUT_OF_RANGE", lambda: requests.version(text))
    assert (
        f"the version is '{text[:32]}', but must be a number from 1, a label, or empty for what the model's split says"
        in message
    )
    assert len(message) < 150


@pytest.mark.parametrize("text", ["stable", "canary-2", "v1", "A.b_c", "a" * 64])
def test_a_version_may_be_named_by_its_label(text: str) -> None:
    assert requests.version(text) == text


@pytest.mark.parametrize("text", ["01", "0000000001" + "9" * 20, "0000000001" + "9" * 5000])
def test_a_version_with_leading_zeros_is_refused(text: str) -> None:
    refusal("VERSION_OUT_OF_RANGE", lambda: requests.version(text))


# Contents


def test_what_a_request_says_of_its_inputs_is_read_without_their_bytes() -> None:
    request = pb.ModelInferRequest(inputs=[an_input("x", "FP32", [2**40, -1]), an_input("x", "odd", [])])
    assert requests.declared(request) == [Declared("x", "FP32", (2**40, -1)), Declared("x", "odd", ())]


@pytest.mark.parametrize("datatype", CONTENTS)
def test_values_one_by_one_are_taken_from_their_types_field(datatype: str) -> None:
    field, values = CONTENTS[datatype]
    (array,) = requests.tensors(typed(datatype, [2, 1], **{field: values}), None).values()
    assert (array.dtype, array.shape) == (DTYPES[datatype], (2, 1))
    assert array.ravel().tolist() == values


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_contents_of_every_type_are_read(datatype: str) -> None:
    array = np.array([b"a", b"", b"bc"] if datatype == BYTES else [0, 1, 1], DTYPES[datatype])
    request = raw(an_input("x", datatype, [3]), contents=[to_bytes(array)])
    found = requests.tensors(request, None)["x"]
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("datatype", CONTENTS)
def test_values_in_another_types_field_are_not_found(datatype: str) -> None:
    field = "fp64_contents" if datatype == "FP32" else "fp32_contents"
    message = refusal("TENSOR_SIZE_MISMATCH", lambda: read(typed(datatype, [2], **{field: [1.0, 2.0]})))
    assert message == "input 'x' has 0 elements, but [2] has 2."


def test_halves_cannot_come_one_by_one() -> None:
    message = refusal("CONTENTS_MISSING", lambda: read(typed("FP16", [1], fp32_contents=[1.0])))
    assert message == "input 'x' is FP16, which `contents` cannot hold; send it in `raw_input_contents`."


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 65_536)],
)
def test_a_value_that_only_its_field_can_hold_is_refused(datatype: str, value: int) -> None:
    request = typed(datatype, [2], **{CONTENTS[datatype][0]: [1, value]})
    assert f"no {datatype}" in refusal("VALUE_OUT_OF_RANGE", lambda: read(request))


@pytest.mark.parametrize(
    ("shape", "values"), [([2], [1]), ([2], [1, 2, 3]), ([1], []), ([2**40, 2**40, 3], [1])]
)
def test_values_too_many_or_too_few_are_refused(shape: list[int], values: list[int]) -> None:
    refusal("TENSOR_SIZE_MISMATCH", lambda: read(typed("INT32", shape, int_contents=values)))


def test_raw_contents_belong_to_the_inputs_in_their_order() -> None:
    inputs = [an_input("a", "UINT8", [2]), an_input("b", "INT16", [1]), an_input("c", BYTES, [1])]
    request = raw(*inputs, contents=[b"\x01\x02", b"\x03\x00", b"\x01\0\0\0x"])
    assert read(request) == {"a": [1, 2], "b": [3], "c": [b"x"]}


@pytest.mark.parametrize("count", [1, 3, 100])
def test_raw_contents_too_many_or_too_few_are_refused(count: int) -> None:
    inputs = [an_input("a", "UINT8", [1]), an_input("b", "UINT8", [1])]
    message = refusal("CONTENTS_MISSING", lambda: read(raw(*inputs, contents=[b"\x01"] * count)))
    assert f"has {count} raw contents for 2 inputs outside of shared memory; send one for each" in message


def test_a_request_of_raw_contents_has_no_input_of_values() -> None:
    second = an_input("b", "UINT8", [1], contents=pb.InferTensorContents(uint_contents=[1]))
    request = raw(an_input("a", "UINT8", [1]), second, contents=[b"\x01"])
    refusal("CONTENTS_MISSING", lambda: read(request))


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "reason"),
    [
        ("FP32", [1], bytes(3), "TENSOR_SIZE_MISMATCH"),
        ("FP32", [1], bytes(5), "TENSOR_SIZE_MISMATCH"),
        ("FP32", [2**40, 2**40, 3], bytes(12), "TENSOR_SIZE_MISMATCH"),
        (BYTES, [2**40, 2**40, 3], bytes(12), "TOO_MANY_ELEMENTS"),
        (BYTES, [1], b"\x05\0\0\0abc", "TENSOR_SIZE_MISMATCH"),
        (BYTES, [1], b"\xff\xff\xff\xff", "TENSOR_SIZE_MISMATCH"),
        ("FP32", [-1], bytes(4), "SHAPE_INVALID"),
        ("FP32", [1] * 40, bytes(4), "SHAPE_INVALID"),
    ],
)
def test_raw_contents_that_do_not_fit_the_shape_are_refused(
    datatype: str, shape: list[int], content: bytes, reason: str
) -> None:
    refusal(reason, lambda: read(raw(an_input("x", datatype, shape), contents=[content])))


# Shared memory


def test_inputs_in_shared_memory_and_in_the_request_may_be_mixed(regions: SharedMemoryRegions) -> None:
    shared = an_input("a", "UINT8", [2, 2], parameters=place(4, offset=8))
    request = raw(shared, an_input("b", "UINT8", [1]), contents=[b"\x07"])
    assert read(request, regions) == {"a": [[8, 9], [10, 11]], "b": [7]}


def test_elements_of_bytes_in_shared_memory_are_read(regions: SharedMemoryRegions) -> None:
    regions.write("region", 0, b"\x02\0\0\0hi", 6)
    one = an_input("x", BYTES, [1], parameters=place(6))
    assert read(pb.ModelInferRequest(inputs=[one]), regions) == {"x": [b"hi"]}


def test_raw_contents_for_an_input_in_shared_memory_are_refused(regions: SharedMemoryRegions) -> None:
    request = raw(an_input("a", "UINT8", [4], parameters=place(4)), contents=[b"\x07"])
    message = refusal("CONTENTS_MISSING", lambda: read(request, regions))
    assert "has 1 raw contents for 0 inputs" in message


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "reason"),
    [
        ("UINT8", [4], 3, "TENSOR_SIZE_MISMATCH"),
        ("UINT8", [4], 5, "TENSOR_SIZE_MISMATCH"),
        ("FP32", [4], 4, "TENSOR_SIZE_MISMATCH"),
        ("UINT8", [4], 0, "TENSOR_SIZE_MISMATCH"),
        ("UINT8", [2**40, 2**40, 3], 4, "TENSOR_SIZE_MISMATCH"),
        ("UINT8", [-1], 4, "SHAPE_INVALID"),
        ("UINT8", [1] * 40, 1, "SHAPE_INVALID"),
        (BYTES, [1], 8, "TENSOR_SIZE_MISMATCH"),
        (BYTES, [2**40], 8, "TOO_MANY_ELEMENTS"),
        ("UINT8", [MOST_BYTES + 1], MOST_BYTES + 1, "REQUEST_TOO_LARGE"),
        (BYTES, [1], 2**62, "REQUEST_TOO_LARGE"),
        ("UINT8", [REGION_BYTES + 1], REGION_BYTES + 1, "SHARED_MEMORY_OUT_OF_BOUNDS"),
    ],
)
def test_shared_memory_of_the_wrong_size_is_refused(
    datatype: str, shape: list[int], size: int, reason: str, regions: SharedMemoryRegions
) -> None:
    one = an_input("x", datatype, shape, parameters=place(size))
    refusal(reason, lambda: read(pb.ModelInferRequest(inputs=[one]), regions))


def test_shared_memory_of_the_wrong_size_is_refused_before_it_is_read() -> None:
    class NeverRead(SharedMemoryRegions):
        def read(self, name: str, offset: int, byte_size: int) -> Any:
            raise AssertionError("never read")

    for shape, size in (([4], 5), ([2**40], MOST_BYTES + 1), ([-1], 4)):
        one = an_input("x", "UINT8", shape, parameters=place(size))
        with pytest.raises(InvalidRequestError):
            read(pb.ModelInferRequest(inputs=[one]), NeverRead())


@pytest.mark.parametrize("parameter", ["shared_memory_offset", "shared_memory_byte_size"])
@pytest.mark.parametrize(
    "value",
    [
        pb.InferParameter(int64_param=-1),
        pb.InferParameter(string_param="4"),
        pb.InferParameter(double_param=4.0),
        pb.InferParameter(bool_param=True),
        pb.InferParameter(),
    ],
    ids=str,
)
def test_a_place_in_shared_memory_that_is_no_number_is_refused(
    parameter: str, value: pb.InferParameter, regions: SharedMemoryRegions
) -> None:
    parameters = {**place(4), parameter: value}
    request = pb.ModelInferRequest(
        inputs=[an_input("x", "UINT8", [4], parameters=parameters)],
        outputs=[Output(name="scores", parameters=parameters)],
    )
    expected = f"the parameter '{parameter}' must be an integer of 0 or more."
    assert refusal("PARAMETER_INVALID", lambda: read(request, regions)) == expected
    assert refusal("PARAMETER_INVALID", lambda: requests.destinations(request, regions)) == expected


@pytest.mark.parametrize(
    "region", [pb.InferParameter(string_param="other"), pb.InferParameter(int64_param=1)]
)
def test_a_region_that_there_is_not_is_refused(
    region: pb.InferParameter, regions: SharedMemoryRegions
) -> None:
    parameters = {**place(4), "shared_memory_region": region}
    request = pb.ModelInferRequest(
        inputs=[an_input("x", "UINT8", [4], parameters=parameters)],
        outputs=[Output(name="scores", parameters=parameters)],
    )
    refusal("SHARED_MEMORY_UNKNOWN", lambda: read(request, regions))
    refusal("SHARED_MEMORY_UNKNOWN", lambda: requests.destinations(request, regions))


def test_where_shared_memory_is_not_served_it_is_refused_with_how_to_have_it() -> None:
    request = pb.ModelInferRequest(
        inputs=[an_input("x", "UINT8", [4], parameters=place(4))],
        outputs=[Output(name="scores", parameters=place(4))],
    )
    message = refusal("SHARED_MEMORY_NOT_SERVED", lambda: read(request))
    assert "start it with --system-shared-memory on" in message
    assert refusal("SHARED_MEMORY_NOT_SERVED", lambda: requests.destinations(request, None)) == message


def test_outputs_go_where_the_request_says(regions: SharedMemoryRegions) -> None:
    outputs = [Output(name="scores", parameters=place(4, offset=60)), Output(name="boxes")]
    request = pb.ModelInferRequest(outputs=outputs)
    assert requests.destinations(request, regions) == {"scores": ("region", 60, 4)}
    assert requests.destinations(pb.ModelInferRequest(outputs=outputs[1:]), None) == {}


@pytest.mark.parametrize(("offset", "size"), [(61, 4), (0, 65), (65, 0), (2**63 - 1, 1)])
def test_room_that_is_not_in_the_region_is_refused_before_an_answer_is_computed(
    offset: int, size: int, regions: SharedMemoryRegions
) -> None:
    request = pb.ModelInferRequest(outputs=[Output(name="scores", parameters=place(size, offset))])
    refusal("SHARED_MEMORY_OUT_OF_BOUNDS", lambda: requests.destinations(request, regions))
