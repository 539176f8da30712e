"""Requests of the Open Inference Protocol are refused by their bytes where protobuf would take many times these."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from retinue.inference import grpc_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc.inference_wire import check_fields

MIB = 1 << 20
MOST_FIELDS = 65_536
MOST_VALUE_BYTES = 4 * MIB
_EMPTY_INPUT, _EMPTY_OUTPUT, _EMPTY_RAW = b"\x2a\x00", b"\x32\x00", b"\x3a\x00"
_INPUT = pb.ModelInferRequest.INPUTS_FIELD_NUMBER
_CONTENTS = pb.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER
_TYPED = {
    field.name: field.number
    for field in pb.InferTensorContents.DESCRIPTOR.fields
    if field.name != "bytes_contents"
}


class CountedBytes(bytes):
    """Bytes that count how often a part of them is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return made + bytes((value,))


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def contents(payload: bytes) -> bytes:
    """A request of one input with nothing but its contents."""
    return field(_INPUT, field(_CONTENTS, payload))


def infer(**tensor: Any) -> pb.ModelInferRequest:
    one = pb.ModelInferRequest.InferInputTensor(name="images", shape=[2, 3], **tensor)
    return pb.ModelInferRequest(model_name="a", id="7", inputs=[one])


HONEST = {
    "nothing": pb.ModelInferRequest(),
    "raw tensors": pb.ModelInferRequest(
        inputs=[pb.ModelInferRequest.InferInputTensor(name="images", datatype="UINT8", shape=[1, 8 * MIB])],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="scores")],
        raw_input_contents=[bytes(8 * MIB)],
    ),
    "encoded images one by one": infer(
        datatype="BYTES", contents=pb.InferTensorContents(bytes_contents=[bytes(MIB)] * 16)
    ),
    "as many numbers as are taken": infer(
        datatype="UINT8", contents=pb.InferTensorContents(uint_contents=[1] * (MOST_VALUE_BYTES - 8))
    ),
    "numbers of eight bytes": infer(
        datatype="FP64", contents=pb.InferTensorContents(fp64_contents=[0.5] * (MOST_VALUE_BYTES // 8 - 1))
    ),
    "shared memory": infer(
        datatype="UINT8", parameters={"shared_memory_region": pb.InferParameter(string_param="region")}
    ),
    "another method's": pb.ModelMetadataRequest(name="a", version="1"),
    "a load": pb.RepositoryModelLoadRequest(model_name="a"),
    "a registration": pb.SystemSharedMemoryRegisterRequest(name="a", key="/a", offset=5, byte_size=9),
}

TOO_MUCH = {
    "inputs": _EMPTY_INPUT * MIB,
    "outputs": _EMPTY_OUTPUT * MIB,
    "raw contents": _EMPTY_RAW * MIB,
    "unknown fields": b"\x78\x01" * MIB,
    "inputs in a group": b"\x7b" + _EMPTY_INPUT * MIB + b"\x7c",
    "parameters": field(4, b"") * MIB,
    "fields of one input": field(_INPUT, b"\x18\x01" * MIB),
    "parameters of one input": field(_INPUT, field(4, b"") * MIB),
    "contents of one input": field(_INPUT, field(_CONTENTS, b"") * MIB),
    "numbers one by one": contents(b"\x20\x01" * MIB),
    "elements of bytes": contents(field(8, b"") * MIB),
    "fields of all inputs": field(_INPUT, b"\x18\x01" * 1000) * 100,
    "elements of all inputs": contents(field(8, b"") * 1000) * 100,
    "numbers of all inputs": contents(field(4, bytes(MIB))) * 5,
    **{f"{name} at once": contents(field(number, bytes(5 * MIB))) for name, number in _TYPED.items()},
}

UNREADABLE = {
    "a tag without an end": b"\xff" * MIB,
    "a tag that is cut off": b"\xaa",
    "a length that is cut off": b"\x2a\x80",
    "an input that is cut off": b"\x2a\x05abc",
    "a number that is cut off": b"\x78\x80",
    "a length of 2**63": b"\x2a" + b"\xff" * 8 + b"\x7f",
    "an unknown wire type": b"\x1f",
    "an input's tag that reaches into the next one": b"\x2a\x01\xaa\x2a\x00",
    "contents that are longer than their input": field(_INPUT, b"\x2a\x05") + bytes(8),
    "values that are longer than their contents": contents(b"\x22\x05") + bytes(8),
    "a value that is cut off": contents(b"\x20\x80"),
}


@pytest.mark.parametrize("what", HONEST)
def test_an_honest_request_passes(what: str) -> None:
    check_fields(HONEST[what].SerializeToString())


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_request_of_too_many_fields_or_values_is_refused_after_a_look_at_the_first_ones(what: str) -> None:
    data = CountedBytes(TOO_MUCH[what])
    with pytest.raises(InvalidRequestError) as refused:
        check_fields(data)
    assert refused.value.reason == "TOO_MANY_FIELDS"
    assert f"more than {MOST_FIELDS} fields, or more than {MOST_VALUE_BYTES} bytes" in refused.value.message
    assert "send tensors in `raw_input_contents`" in refused.value.message
    # A tag and a length, or a tag and a value, of each field and of the first that is too many.
    assert data.looks < 3 * MOST_FIELDS


@pytest.mark.parametrize("unit", [_EMPTY_INPUT, _EMPTY_OUTPUT, _EMPTY_RAW, b"\x78\x01"])
def test_exactly_as_many_fields_as_are_taken_pass(unit: bytes) -> None:
    check_fields(unit * MOST_FIELDS)
    with pytest.raises(InvalidRequestError):
        check_fields(unit * (MOST_FIELDS + 1))


def test_exactly_as_many_bytes_of_values_as_are_taken_pass() -> None:
    check_fields(contents(field(4, bytes(MOST_VALUE_BYTES))))
    with pytest.raises(InvalidRequestError):
        check_fields(contents(field(4, bytes(MOST_VALUE_BYTES + 1))))


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_message_is_told_from_one(what: str) -> None:
    with pytest.raises(DecodeError):
        check_fields(UNREADABLE[what])
    with pytest.raises(DecodeError):
        pb.ModelInferRequest.FromString(UNREADABLE[what])


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(data: bytes) -> None:
    try:
        check_fields(data)
    except (InvalidRequestError, DecodeError):
        return


# Fields with numbers that mean something, whose payloads are again such fields, so that what is within is reached.
_NESTED = st.recursive(
    st.binary(max_size=12),
    lambda inner: st.lists(st.tuples(st.integers(1, 9), inner), max_size=4).map(
        lambda parts: b"".join(field(number, payload) for number, payload in parts)
    ),
    max_leaves=12,
)


@given(_NESTED, st.integers(0, 60), st.binary(max_size=3))
def test_any_fields_within_fields_pass_or_are_refused_however_they_are_damaged(
    message: bytes, where: int, damage: bytes
) -> None:
    for data in (message, message[:where], message[:where] + damage + message[where:]):
        try:
            check_fields(data)
        except (InvalidRequestError, DecodeError):
            continue


@given(
    st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=st.text(max_size=5),
            shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
            contents=st.builds(
                pb.InferTensorContents,
                int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
                fp64_contents=st.lists(st.floats(), max_size=5),
                bytes_contents=st.lists(st.binary(max_size=5), max_size=5),
            ),
        ),
        max_size=4,
    )
)
def test_whatever_a_client_can_build_passes(inputs: list[pb.ModelInferRequest.InferInputTensor]) -> None:
    check_fields(pb.ModelInferRequest(inputs=inputs).SerializeToString())


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("ModelInfer", field(5, field(3, bytes(5 * MIB)))),
        ("ModelStreamInfer", field(5, field(3, bytes(1000))) * 5000),
        ("ModelInfer", field(6, field(2, field(1, b"a")) * MIB)),
        ("ModelInfer", field(6, b"\x0a\x00" * MIB)),
        ("TraceSetting", field(1, field(1, b"a") + field(2, b"\x0a\x00" * MIB))),
    ],
    ids=[
        "a shape",
        "many shapes",
        "an output's parameters",
        "an output's fields",
        "a trace setting's values",
    ],
)
def test_what_takes_many_times_its_size_is_counted_wherever_it_is(method: str, data: bytes) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_fields(data, method)
    assert refused.value.reason == "TOO_MANY_FIELDS"
