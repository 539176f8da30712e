"""Inference requests of the Open Inference Protocol over HTTP: JSON, and bytes of tensors after it.

Source: the protocol's HTTP/REST part, and its extensions "binary tensor data" and "parameters" as Triton has them.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError
from retinue.inference import grpc_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.http.exchange import Reply
from retinue_server.http.messages import to_json
from retinue_server.tensors import BYTES, Array, count_elements, from_bytes, from_values, to_bytes

HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY_SIZE, _BINARY, _BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
_REGION = "shared_memory_region"
_OCTETS = "application/octet-stream"

# Three bytes of JSON can take sixty in memory.
_MOST_JSON_BYTES = 4 * 1024 * 1024
# Each input, output and parameter takes hundreds of bytes, and so does what is wrong with it.
_MOST_TENSORS, _MOST_PARAMETERS, _MOST_SIZES = 1000, 100, 100
# One by one as text, each takes up to twenty bytes.
_MOST_ELEMENTS = 1_000_000
_DIGITS = 10
# Of the elements of those that are no integers.
_JSON_TYPES: dict[str, set[type]] = {
    "BOOL": {bool},
    "FP16": {int, float},
    "FP32": {int, float},
    "FP64": {int, float},
    BYTES: {str},
}


def _check_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Refuses values that are none of a parameter's, and names no more than one of them."""
    for name, value in given.items():
        whole = type(value) is int and -(2**63) <= value < 2**63
        if not whole and type(value) not in (bool, float, str):
            raise ValueError(f"parameter '{name[:128]}' is no truth value, no text, and no number of 64 bits")
    return given


_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Parameters = Annotated[dict[str, Any], Field(max_length=_MOST_PARAMETERS), AfterValidator(_check_parameters)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    parameters: _Parameters = {}


class _Input(_Part):
    shape: Annotated[list[_Int64], FailFast(), Field(max_length=_MOST_SIZES)]
    datatype: str
    data: list[Any] | None = None


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str = ""
    parameters: _Parameters = {}
    inputs: Annotated[list[_Input], FailFast(), Field(max_length=_MOST_TENSORS)]
    outputs: Annotated[list[_Part], FailFast(), Field(max_length=_MOST_TENSORS)] = []


class InferRequest:
    """An inference request as it came over HTTP.

    Attributes:
        message: The same as gRPC has it, all tensors in bytes.
        fault: Why the tensors are not in it: they do not hold.

    Raises:
        InvalidRequestError: It is none.
    """

    def __init__(self, body: bytes, header_length: str | None, model: str, version: str) -> None:
        header, rest = _split(body, header_length)
        given = _parsed(header)
        self.message = pb.ModelInferRequest(model_name=model, model_version=version, id=given.id)
        self._binary = _flag(given.parameters, _BINARY_OUTPUT, default=False)
        self._binary_by_name = {
            one.name: _flag(one.parameters, _BINARY, default=self._binary) for one in given.outputs
        }
        _set(self.message.parameters, given.parameters, but=_BINARY_OUTPUT)
        for one in given.inputs:
            told = self.message.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
            _set(told.parameters, one.parameters, but=_BINARY_SIZE)
        for output in given.outputs:
            _set(self.message.outputs.add(name=output.name).parameters, output.parameters, but=_BINARY)
        self.fault: InvalidRequestError | None = None
        try:
            self._add_contents(given.inputs, rest)
        except InvalidRequestError as error:
            self.fault = error

    def _add_contents(self, inputs: list[_Input], rest: memoryview) -> None:
        for one in inputs:
            rest = self._add_content(one, rest)
        if rest:
            raise InvalidRequestError(
                f"{len(rest)} bytes follow those of the inputs; {_BINARY_SIZE} of each must say how many it has.",
                reason="TENSOR_SIZE_MISMATCH",
            )

    def _add_content(self, one: _Input, rest: memoryview) -> memoryview:
        size = one.parameters.get(_BINARY_SIZE)
        if size is None and _REGION in one.parameters:
            return rest
        if size is None:
            self.message.raw_input_contents.append(_from_json(one))
            return rest
        if one.data is not None or type(size) is not int or not 0 <= size <= len(rest):
            raise InvalidRequestError(
                f"input '{one.name[:128]}' has {_BINARY_SIZE} {str(size)[:32]}, but {len(rest)} bytes are left after "
                f"the JSON{' and it has data there, too' if one.data is not None else ''}.",
                reason="TENSOR_SIZE_MISMATCH",
            )
        self.message.raw_input_contents.append(bytes(rest[:size]))
        return rest[size:]

    def reply(self, answer: pb.ModelInferResponse) -> Reply:
        """What goes back for an answer.

        Raises:
            InvalidRequestError: It has too many elements for JSON, or bytes that are no text.
        """
        pieces: list[bytes] = []
        outputs = []
        for one, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            told: dict[str, Any] = {
                "name": one.name,
                "datatype": one.datatype,
                "shape": list(one.shape),
            }
            if _REGION in one.parameters:
                told["parameters"] = {
                    name: value.string_param or value.int64_param for name, value in one.parameters.items()
                }
            elif self._binary_by_name.get(one.name, self._binary):
                told["parameters"] = {_BINARY_SIZE: len(raw)}
                pieces.append(raw)
            else:
                told["data"] = _to_json(one, raw)
            outputs.append(told)
        content = {"model_name": answer.model_name, "model_version": answer.model_version, "outputs": outputs}
        if answer.id:
            content["id"] = answer.id
        header = to_json(content)
        if not pieces:
            return Reply([header])
        return Reply([header, *pieces], media_type=_OCTETS, headers={HEADER_LENGTH: str(len(header))})


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what follows it."""
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > _DIGITS:
            length = -1
        else:
            length = int(header_length)
    if not 0 <= length <= len(body):
        raise InvalidRequestError(
            f"{HEADER_LENGTH} is '{(header_length or '')[:32]}', but must be the length of the JSON at the start of "
            f"the body, which has {len(body)} bytes.",
            reason="HEADER_LENGTH_INVALID",
        )
    if length > _MOST_JSON_BYTES:
        raise InvalidRequestError(
            f"the JSON has {length} bytes, but at most {_MOST_JSON_BYTES} are taken; send tensors as bytes after it, "
            f"with {_BINARY_SIZE}.",
            reason="JSON_TOO_LARGE",
        )
    return body[:length], memoryview(body)[length:]


def _parsed(header: bytes) -> _Request:
    try:
        return _Request.model_validate_json(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step)[:64] for step in first["loc"][:8])
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(
            f"the JSON of the request does not hold{f' at {place}' if place else ''}: "
            f"{message[:1].lower()}{message[1:]}.",
            reason="JSON_INVALID",
        ) from None


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(
            f"the parameter '{name}' must be true or false.", reason="PARAMETER_INVALID"
        )
    return value


def _set(told: Any, parameters: Mapping[str, Any], *, but: str) -> None:
    for name, value in parameters.items():
        if name == but:
            continue
        if isinstance(value, bool):
            told[name].bool_param = value
        elif isinstance(value, int):
            told[name].int64_param = value
        elif isinstance(value, float):
            told[name].double_param = value
        else:
            told[name].string_param = value


def _from_json(one: _Input) -> bytes:
    """The bytes of an input whose elements are in the JSON, one after the other or nested as its shape is."""
    if one.data is None:
        raise InvalidRequestError(
            f"input '{one.name[:128]}' has neither data nor {_BINARY_SIZE}.", reason="CONTENTS_MISSING"
        )
    count_elements(one.name, one.datatype, one.shape)
    values = _flat(one, one.data)
    if not set(map(type, values)) <= _JSON_TYPES.get(one.datatype, {int}):
        raise InvalidRequestError(
            f"input '{one.name[:128]}' has elements in the JSON that are no {one.datatype}.",
            reason="VALUE_OUT_OF_RANGE",
        )
    return to_bytes(from_values(one.name, one.datatype, one.shape, values))


def _flat(one: _Input, data: list[Any]) -> list[Any]:
    depth = 0
    while data and isinstance(data[0], list):
        depth += 1
        size = one.shape[depth] if depth < len(one.shape) else -1
        if not all(isinstance(row, list) and len(row) == size for row in data) or len(data) != math.prod(
            one.shape[:depth]
        ):
            raise InvalidRequestError(
                f"input '{one.name[:128]}' has its elements nested otherwise than {list(one.shape)}; nest them so, or "
                "not at all.",
                reason="TENSOR_SIZE_MISMATCH",
            )
        data = [element for row in data for element in row]
    return data


def _to_json(one: pb.ModelInferResponse.InferOutputTensor, raw: bytes) -> list[Any]:
    array: Array = from_bytes(one.name, one.datatype, one.shape, raw)
    if array.size > _MOST_ELEMENTS:
        raise InvalidRequestError(
            f"output '{one.name}' has {array.size} elements, more than {_MOST_ELEMENTS} as text; ask for it with "
            f"{_BINARY}.",
            reason="REPLY_TOO_LARGE",
        )
    values: list[Any] = array.ravel().tolist()
    if one.datatype != BYTES:
        return values
    try:
        return [element.decode() for element in values]
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"output '{one.name}' has bytes that are no UTF-8; ask for it with {_BINARY}.", reason="NOT_TEXT"
        ) from None
