"""Replies to inference requests over HTTP: JSON, bytes after it, or both."""

import json
from typing import Any

import numpy as np
import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.http.infer_json import one, read
from tests.unit.server.refusals import refusal

from retinue_server.http import tensors


def answer(**arrays: Any) -> pb.ModelInferResponse:
    told = pb.ModelInferResponse(model_name="a-model", model_version="3", id="seven")
    names = {"float32": "FP32", "int64": "INT64", "bool": "BOOL", "object": "BYTES", "float16": "FP16"}
    for name, array in arrays.items():
        told.outputs.add(name=name, datatype=names[array.dtype.name], shape=array.shape)
        told.raw_output_contents.append(tensors.to_bytes(array))
    return told


def test_a_reply_is_json_where_nothing_else_is_asked() -> None:
    reply = read(one([1.0])).reply(
        answer(
            y=np.array([[0.1, np.nan], [-np.inf, 2]], np.float32),
            text=np.array(["grün", ""], object),
            flag=np.array([True]),
            whole=np.array(2**62),
        )
    )
    assert reply.media_type == "application/json"
    assert not reply.headers
    (body,) = reply.pieces
    told = json.loads(body)
    assert (told["model_name"], told["model_version"], told["id"]) == ("a-model", "3", "seven")
    y, text, flag, whole = told["outputs"]
    assert y == {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [pytest.approx(0.1), None, None, 2],
    }
    assert (text["data"], flag["data"], whole["data"], whole["shape"]) == (["grün", ""], [True], [2**62], [])


def test_outputs_come_as_bytes_where_the_request_or_the_output_asks_for_it() -> None:
    y, z = np.array([1, 2], np.float32), np.array([[3]], np.int64)
    outputs = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}]
    reply = read(one([1.0]), outputs=outputs, parameters={"binary_data_output": True}).reply(answer(y=y, z=z))
    assert reply.media_type == "application/octet-stream"
    header, content = reply.pieces
    assert reply.headers == {"Inference-Header-Content-Length": str(len(header))}
    told = json.loads(header)["outputs"]
    assert told[0]["data"] == [1, 2]
    assert "data" not in told[1]
    assert told[1]["parameters"] == {"binary_data_size": 8}
    assert content == z.tobytes()
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    assert read(one([1.0]), outputs=outputs).reply(answer(y=y)).pieces[1] == y.tobytes()
    everything = read(one([1.0]), parameters={"binary_data_output": True}).reply(answer(y=y, z=z))
    assert [len(piece) for piece in everything.pieces[1:]] == [8, 8]


def test_outputs_in_shared_memory_are_told_where_they_are() -> None:
    told = answer(y=np.array([1], np.float32))
    told.raw_output_contents[0] = b""
    told.outputs[0].parameters["shared_memory_region"].string_param = "r"
    told.outputs[0].parameters["shared_memory_offset"].int64_param = 0
    told.outputs[0].parameters["shared_memory_byte_size"].int64_param = 4
    (body,) = read(one([1.0])).reply(told).pieces
    assert json.loads(body)["outputs"] == [
        {
            "name": "y",
            "datatype": "FP32",
            "shape": [1],
            "parameters": {
                "shared_memory_region": "r",
                "shared_memory_offset": 0,
                "shared_memory_byte_size": 4,
            },
        }
    ]


def test_what_json_cannot_hold_is_refused_with_the_way_out() -> None:
    request = read(one([1.0]))
    many = answer(y=np.zeros(1_000_001, np.bool_))
    assert "binary_data" in refusal("REPLY_TOO_LARGE", lambda: request.reply(many))
    text = answer(y=np.array([b"\xff"], object))
    assert "binary_data" in refusal("NOT_TEXT", lambda: request.reply(text))
    asked = read(one([1.0]), parameters={"binary_data_output": True})
    assert asked.reply(many).size_bytes > 1_000_001
    assert asked.reply(text).pieces[1] == b"\x01\0\0\0\xff"
