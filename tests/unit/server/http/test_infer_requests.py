"""Inference requests over HTTP: JSON, bytes after it, or both."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.unit.server.http.infer_json import binary, one, read
from tests.unit.server.refusals import refusal

from retinue_server.errors import InvalidRequestError
from retinue_server.http import tensors
from retinue_server.http.tensors import InferRequest

MIB = 1 << 20


def refused(reason: str, *inputs: Any, **more: Any) -> str:
    message = refusal(reason, lambda: read(*inputs, **more))
    assert len(message) < 700
    return message


def refused_json(header: bytes) -> str:
    return refusal("JSON_INVALID", lambda: InferRequest(header, None, "a-model", ""))


def raw(request: InferRequest) -> list[bytes]:
    return list(request.message.raw_input_contents)


def test_a_request_names_its_model_its_tensors_and_itself() -> None:
    message = read(one([1.5], name="a"), id="seven", outputs=[{"name": "y"}]).message
    assert (message.model_name, message.model_version, message.id) == ("a-model", "3", "seven")
    (told,) = message.inputs
    assert (told.name, told.datatype, list(told.shape)) == ("a", "FP32", [1])
    assert [output.name for output in message.outputs] == ["y"]


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("BOOL", [True, False], np.array([True, False])),
        ("UINT8", [0, 255], np.array([0, 255], np.uint8)),
        ("INT8", [-128, 127], np.array([-128, 127], np.int8)),
        ("UINT64", [0, 2**64 - 1], np.array([0, 2**64 - 1], np.uint64)),
        ("INT64", [-(2**63), 2**63 - 1], np.array([-(2**63), 2**63 - 1], np.int64)),
        ("FP16", [1, 0.5], np.array([1, 0.5], np.float16)),
        ("FP32", [1, 0.1], np.array([1, 0.1], np.float32)),
        ("FP64", [-0.0, 1e300], np.array([-0.0, 1e300])),
        # As any cast makes of it.
        ("FP16", [70000, -1e39], np.array([np.inf, -np.inf], np.float16)),
    ],
)
def test_elements_in_the_json_become_bytes(datatype: str, data: list[Any], expected: Any) -> None:
    assert raw(read(one(data, (2,), datatype))) == [expected.tobytes()]


def test_texts_in_the_json_become_bytes_with_their_lengths() -> None:
    assert raw(read(one(["", "grün"], (2,), "BYTES"))) == [b"\0\0\0\0\x05\0\0\0gr\xc3\xbcn"]


def test_floats_that_json_has_not_may_be_written_as_python_does() -> None:
    body = b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,Infinity,-Infinity]}]}'
    (told,) = raw(InferRequest(body, None, "m", ""))
    assert np.array_equal(np.frombuffer(told, np.float32), [np.nan, np.inf, -np.inf], equal_nan=True)


@pytest.mark.parametrize(
    "data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["one after the other", "nested"]
)
def test_elements_may_be_nested_as_the_shape_is(data: Any) -> None:
    assert raw(read(one(data, (2, 3), "UINT8"))) == [bytes((1, 2, 3, 4, 5, 6))]
    assert raw(
        read(one([[data]], (1, 1, 2, 3), "UINT8") if data[0] == [1, 2, 3] else one(data, (6,), "UINT8"))
    )


def test_tensors_may_be_scalars_or_empty() -> None:
    assert raw(read(one([7], (), "UINT8"))) == [b"\x07"]
    assert raw(read(one([], (0,), "UINT8"))) == [b""]
    assert raw(read(one([[], []], (2, 0), "UINT8"))) == [b""]
    assert raw(read(one([], (2, 0), "UINT8"))) == [b""]


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([[1, 2], [3]], (2, 2)),
        ([[1, 2], 3], (2, 2)),
        ([[1, 2, 3, 4]], (2, 2)),
        ([[1], [2], [3], [4]], (2, 2)),
        ([[[1]]], (1, 1)),
        ([[1]], (1,)),
        ([[]], ()),
        ([1, 2, 3], (2, 2)),
        ([1, 2, 3, 4, 5], (2, 2)),
        ([], (1,)),
        ([1], (2**62, 2**62, 2**62)),
        ([[1]], (2**62, 1)),
        ([[[1]], [[2]]], (2, 1, 2)),
    ],
)
def test_elements_that_are_not_of_the_shape_are_refused(data: Any, shape: Any) -> None:
    refused("TENSOR_SIZE_MISMATCH", one(data, shape, "UINT8"))


@pytest.mark.parametrize(
    ("data", "datatype"),
    [
        ([True], "UINT8"),
        ([1.0], "UINT8"),
        (["1"], "UINT8"),
        ([None], "UINT8"),
        ([{}], "UINT8"),
        ([256], "UINT8"),
        ([-1], "UINT64"),
        ([2**64], "UINT64"),
        ([2**63], "INT64"),
        ([1], "BOOL"),
        (["true"], "BOOL"),
        ([True], "FP32"),
        (["1.0"], "FP32"),
        ([10**400], "FP64"),
        ([1], "BYTES"),
        ([None], "BYTES"),
    ],
)
def test_elements_of_another_type_or_range_are_refused(data: list[Any], datatype: str) -> None:
    assert "'x'" in refused("VALUE_OUT_OF_RANGE", one(data, (1,), datatype))


def test_a_row_among_elements_is_refused() -> None:
    refused("VALUE_OUT_OF_RANGE", one([1, [2]], (2,), "UINT8"))
    refused("VALUE_OUT_OF_RANGE", one([[1, [2]], [3, 4]], (2, 2), "UINT8"))


def test_unknown_datatypes_and_shapes_are_refused() -> None:
    refused("DATATYPE_UNKNOWN", one([1], datatype="BF16"))
    refused("DATATYPE_UNKNOWN", one([1], datatype="x" * 100_000))
    refused("SHAPE_INVALID", one([1], (-1,)))
    refused("SHAPE_INVALID", one([1], (1,) * 33))
    refused("SHAPE_INVALID", one([], (0, 2**40)))


def test_bytes_after_the_json_are_those_of_the_inputs_that_say_so() -> None:
    told = read(
        binary(4, name="a"), one([7], (1,), "UINT8", name="b"), binary(2, name="c"), binary(0), rest=b"aaaacc"
    )
    assert raw(told) == [b"aaaa", b"\x07", b"cc", b""]
    assert not any(one.parameters for one in told.message.inputs)


@pytest.mark.parametrize("size", [-1, 5, 2**62, True, 4.0, "4", "x" * 100_000])
def test_a_size_that_the_bytes_have_not_is_refused(size: Any) -> None:
    refused("TENSOR_SIZE_MISMATCH", binary(size), rest=b"aaaa")


def test_bytes_of_no_input_are_refused() -> None:
    assert "2 bytes follow" in refused("TENSOR_SIZE_MISMATCH", binary(2), rest=b"aaaa")
    refused("TENSOR_SIZE_MISMATCH", one([1]), rest=b"x")


def test_an_input_has_its_content_in_one_place() -> None:
    assert "data there, too" in refused("TENSOR_SIZE_MISMATCH", binary(4, data=[1]), rest=b"aaaa")
    refused("CONTENTS_MISSING", {"name": "x", "shape": [1], "datatype": "FP32"})
    refused("CONTENTS_MISSING", one(None))


@pytest.mark.parametrize("length", ["-1", "1000000", "", "1.0", " 2", "0x2", "\u00b2", "9" * 5000, "two"])
def test_a_length_of_the_json_that_is_none_is_refused(length: str) -> None:
    refused("HEADER_LENGTH_INVALID", one([1]), length=length)


def test_a_length_within_the_json_cuts_it() -> None:
    refused("JSON_INVALID", one([1]), length="5")
    refused("JSON_INVALID", one([1]), length="0")


def test_inputs_in_shared_memory_have_no_content_and_keep_their_parameters() -> None:
    parameters = {
        "shared_memory_region": "r",
        "shared_memory_offset": 8,
        "shared_memory_byte_size": 4,
    }
    told = read({"name": "s", "shape": [1], "datatype": "FP32", "parameters": parameters}, one([1.0]))
    assert len(raw(told)) == 1
    shared = told.message.inputs[0].parameters
    assert shared["shared_memory_region"].string_param == "r"
    assert shared["shared_memory_offset"].int64_param == 8


def test_parameters_keep_their_types() -> None:
    given = {"priority": 1, "timeout": -(2**63), "flag": True, "share": 0.5, "text": "t"}
    told = read(
        one([1.0], parameters={"of": "input"}),
        parameters=given | {"binary_data_output": True},
        outputs=[{"name": "y", "parameters": {"classification": 2, "binary_data": False}}],
    ).message
    assert told.parameters.keys() == given.keys()
    assert told.parameters["priority"].WhichOneof("parameter_choice") == "int64_param"
    assert told.parameters["flag"].bool_param is True
    assert told.parameters["share"].double_param == 0.5
    assert told.parameters["text"].string_param == "t"
    assert told.inputs[0].parameters["of"].string_param == "input"
    assert told.outputs[0].parameters.keys() == {"classification"}


@pytest.mark.parametrize("value", [None, [], {}, 2**63, -(2**63) - 1])
def test_parameters_of_other_types_are_refused(value: Any) -> None:
    assert "parameter 'p' is no" in refused("JSON_INVALID", parameters={"p": value})


@pytest.mark.parametrize("value", [1, 0, "true", 1.0])
def test_flags_are_true_or_false(value: Any) -> None:
    refused("PARAMETER_INVALID", one([1.0]), parameters={"binary_data_output": value})
    refused("PARAMETER_INVALID", one([1.0]), outputs=[{"name": "y", "parameters": {"binary_data": value}}])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b"\xff",
        b'{"inputs": {}}',
        b'{"inputs": null}',
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": 1, "shape": [1], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": ["1"], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": [1.0], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": [true], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": 1, "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": 1}]}',
        b'{"inputs": [{"name": "x", "shape": [9223372036854775808], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [], "id": 7}',
        b'{"inputs": [], "id": "\\ud800"}',
        b'{"inputs": [], "outputs": ["y"]}',
        b'{"inputs": []} {}',
        b'{"inputs": [], "x": ' + b"[" * 100_000,
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": '
        + b"[" * 500
        + b"]" * 500
        + b"}]}",
    ],
)
def test_what_is_no_such_json_is_refused(body: bytes) -> None:
    assert len(refused_json(body)) < 500


def test_of_a_key_that_comes_twice_the_last_counts_and_unknown_keys_do_not() -> None:
    told = InferRequest(b'{"id":"a","id":"b","inputs":[],"more":{"x":[1]}}', None, "m", "")
    assert told.message.id == "b"


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[' + b"1," * 100_000 + b"1]}",
        b'{"inputs":[' + b'{"name":"","shape":[],"datatype":"BOOL","data":[true]},' * 10_000 + b"{}]}",
        b'{"inputs":[],"outputs":[' + b"{}," * 100_000 + b"{}]}",
        b'{"inputs":[],"outputs":[' + b'{"name":""},' * 50_000 + b"{}]}",
        b'{"inputs":[],"parameters":{' + b",".join(b'"%d":[]' % number for number in range(50_000)) + b"}}",
        b'{"inputs":[],"parameters":{' + b",".join(b'"%d":1' % number for number in range(50_000)) + b"}}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b'"",' * 100_000 + b"1]}]}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[' + b"1," * 100_000 + b"1]}]}",
    ],
    ids=["numbers", "inputs", "no outputs", "outputs", "no parameters", "parameters", "no sizes", "sizes"],
)
def test_so_many_parts_are_refused_without_a_word_on_each(body: bytes) -> None:
    """Each error that pydantic notes takes a kilobyte."""
    with pytest.raises(ValidationError) as raised:
        tensors._Request.model_validate_json(body)
    assert raised.value.error_count() <= 10
    refused_json(body)


def test_a_large_json_is_refused_before_it_is_read() -> None:
    message = refusal("JSON_TOO_LARGE", lambda: InferRequest(b" " * (4 * MIB + 1), None, "m", ""))
    assert "binary_data_size" in message
    header = json.dumps({"inputs": [binary(8 * MIB)]}).encode()
    assert len(raw(InferRequest(header + bytes(8 * MIB), str(len(header)), "m", ""))[0]) == 8 * MIB


def test_whatever_bytes_a_request_is_changed_to_it_is_read_or_refused() -> None:
    random = np.random.default_rng(11)
    header = json.dumps(
        {
            "id": "1",
            "parameters": {"priority": 1, "binary_data_output": True},
            "inputs": [
                one([[1.5, 2]], (1, 2), name="a"),
                one(["x", "y"], (2,), "BYTES", name="b"),
                binary(4, (4,), "UINT8", name="c"),
            ],
            "outputs": [{"name": "y", "parameters": {"classification": 2, "binary_data": False}}],
        }
    ).encode()
    original = np.frombuffer(header + b"abcd", np.uint8)
    likely = np.frombuffer(b'{}[]",:0123456789.-+eEtruefalsn\\u \r\n\xff\x00', np.uint8)
    read_whole = 0
    for _ in range(2000):
        changed = original.copy()
        places = random.integers(0, len(changed), random.integers(1, 4))
        changed[places] = random.choice(likely, len(places))
        # Of the request's end, too.
        body = changed[: random.integers(len(header) - 20, len(changed) + 40)].tobytes()
        with contextlib.suppress(InvalidRequestError):
            InferRequest(body, str(len(header)), "a-model", "")
            read_whole += 1
    assert 0 < read_whole < 2000
