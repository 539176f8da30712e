"""Inference requests in JSON, and their inputs, for tests."""

import json
from typing import Any

from retinue_server.http.tensors import InferRequest


def one(data: Any, shape: Any = (1,), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data, **more}


def binary(size: Any, shape: Any = (1,), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "shape": list(shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
        **more,
    }


def read(*inputs: Any, rest: bytes = b"", length: str | None = None, **more: Any) -> InferRequest:
    header = json.dumps({"inputs": inputs, **more}).encode()
    if rest and length is None:
        length = str(len(header))
    request = InferRequest(header + rest, length, "a-model", "3")
    if request.fault is not None:
        raise request.fault
    return request
