"""From the wire: requests of the Open Inference Protocol to tensors and what is wanted of them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.inference import grpc_service_pb2 as pb

from retinue_server.batching.tickets import Priority
from retinue_server.bundle.serving import LABEL_PATTERN, ServingPolicy, parse_config
from retinue_server.errors import BundleError, InvalidRequestError, UnsupportedError
from retinue_server.inference import Declared, Wanted
from retinue_server.shared_memory import SharedMemoryRegions
from retinue_server.tensors import BYTES, DTYPES, Array, count_elements, from_bytes, from_values

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_CONFIG = "config"
# That of one class only.
_HIGHEST, _DEFAULT = 1, (0, 2)

Parameters = Mapping[str, pb.InferParameter]


def version(text: str) -> int | str:
    """The version that a request names: its number, its label, or 0.

    Raises:
        InvalidRequestError: It is neither a number from 1 nor a label.
    """
    if not text:
        return 0
    if _VERSION.fullmatch(text):
        return int(text)
    if not LABEL_PATTERN.fullmatch(text):
        raise InvalidRequestError(
            f"the version is '{text[:32]}', but must be a number from 1, a label, or empty for what the model's split "
            "says.",
            reason="VERSION_OUT_OF_RANGE",
        )
    return text


def serving_policy(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> ServingPolicy | None:
    """How a call that loads a model wants its versions served; None where it does not say.

    Raises:
        InvalidRequestError: That does not hold.
        UnsupportedError: It wants something else.
    """
    for name in parameters:
        if name != _CONFIG:
            raise UnsupportedError(
                f"the parameter '{name[:64]}' is not taken: models are loaded as they lie in the models folder; put "
                f"the files there, and leave all parameters but '{_CONFIG}' out."
            )
    if _CONFIG not in parameters:
        return None
    if parameters[_CONFIG].WhichOneof("parameter_choice") != "string_param":
        raise InvalidRequestError(
            f"the parameter '{_CONFIG}' must be the text of a JSON object.", reason="PARAMETER_INVALID"
        )
    try:
        return parse_config(parameters[_CONFIG].string_param)
    except BundleError as error:
        raise InvalidRequestError(error.message, reason=error.reason) from None


def declared(request: pb.ModelInferRequest) -> list[Declared]:
    """What a request says of its inputs."""
    return [Declared(one.name, one.datatype, tuple(one.shape)) for one in request.inputs]


def shared_bytes(request: pb.ModelInferRequest, max_bytes: int) -> int:
    """What the inputs of a request have in shared memory.

    Args:
        request: As it came.
        max_bytes: The most that is taken.

    Raises:
        InvalidRequestError: They have more.
    """
    places = (_shared(one.parameters) for one in request.inputs)
    size_bytes = sum(place[2] for place in places if place is not None)
    if size_bytes > max_bytes:
        raise InvalidRequestError(
            f"the request has {size_bytes} bytes in shared memory, but at most {max_bytes} are taken; send fewer "
            "images.",
            reason="REQUEST_TOO_LARGE",
        )
    return size_bytes


def tensors(request: pb.ModelInferRequest, regions: SharedMemoryRegions | None) -> dict[str, Array]:
    """The inputs of a request, whose names, types, shapes and bytes in shared memory were checked.

    Args:
        request: As it came.
        regions: Of shared memory; None where it is not served.

    Raises:
        InvalidRequestError: The bytes do not fit the shapes, or are not where the request says.
    """
    raw = iter(request.raw_input_contents)
    found: dict[str, Array] = {}
    for one in request.inputs:
        where = _shared(one.parameters)
        if where is not None:
            name, offset, size = where
            _check_size(one, size)
            found[one.name] = from_bytes(
                one.name, one.datatype, one.shape, _served(regions).read(name, offset, size)
            )
        elif request.raw_input_contents:
            content = next(raw, None)
            if content is None or one.HasField("contents"):
                raise _wrong_count(request)
            found[one.name] = from_bytes(one.name, one.datatype, one.shape, content)
        else:
            found[one.name] = _from_contents(one)
    if next(raw, None) is not None:
        raise _wrong_count(request)
    return found


def wanted(request: pb.ModelInferRequest) -> list[Wanted]:
    """The outputs that a request asks for."""
    return [Wanted(one.name, _integer(one.parameters, "classification")) for one in request.outputs]


def destinations(
    request: pb.ModelInferRequest, regions: SharedMemoryRegions | None
) -> dict[str, tuple[str, int, int]]:
    """Where in shared memory outputs are to go: region, offset and room in bytes, by the output's name.

    Raises:
        InvalidRequestError: There is no such place.
    """
    found = {}
    for one in request.outputs:
        where = _shared(one.parameters)
        if where is not None:
            _served(regions).check_writable(*where)
            found[one.name] = where
    return found


def priority(request: pb.ModelInferRequest) -> Priority:
    """When the turn of a request is: 1 comes first, 0 is as usual."""
    level = _integer(request.parameters, "priority")
    if level == _HIGHEST:
        return Priority.HIGH
    return Priority.NORMAL if level in _DEFAULT else Priority.LOW


def timeout_seconds(request: pb.ModelInferRequest) -> float | None:
    """Within what time the answer is wanted; None where a request does not say."""
    microseconds = _integer(request.parameters, "timeout")
    return microseconds / 1e6 if microseconds else None


def _from_contents(one: pb.ModelInferRequest.InferInputTensor) -> Array:
    field = _CONTENTS.get(one.datatype)
    if field is None:
        raise InvalidRequestError(
            f"input '{one.name}' is {one.datatype}, which `contents` cannot hold; send it in `raw_input_contents`.",
            reason="CONTENTS_MISSING",
        )
    values: Sequence[Any] = getattr(one.contents, field)
    return from_values(one.name, one.datatype, one.shape, values)


def _check_size(one: pb.ModelInferRequest.InferInputTensor, size: int) -> None:
    """Holds what is to be read of shared memory against the shape, before memory is taken for it."""
    count = count_elements(one.name, one.datatype, one.shape)
    if one.datatype != BYTES and size != count * DTYPES[one.datatype].itemsize:
        raise InvalidRequestError(
            f"input '{one.name}' has {size} bytes of shared memory, but {one.datatype} {list(one.shape)} has "
            f"{count * DTYPES[one.datatype].itemsize}.",
            reason="TENSOR_SIZE_MISMATCH",
        )


def _shared(parameters: Parameters) -> tuple[str, int, int] | None:
    if _REGION not in parameters:
        return None
    return parameters[_REGION].string_param, _integer(parameters, _OFFSET), _integer(parameters, _SIZE)


def _served(regions: SharedMemoryRegions | None) -> SharedMemoryRegions:
    if regions is None:
        raise not_served()
    return regions


def not_served() -> InvalidRequestError:
    """What whoever names shared memory is told where there is none."""
    return InvalidRequestError(
        "this server reads no shared memory; send tensors in the request, or start it with --system-shared-memory on "
        "and --workers 0.",
        reason="SHARED_MEMORY_NOT_SERVED",
    )


def _integer(parameters: Parameters, name: str) -> int:
    """A parameter that is a number of 0 or more; 0 where it is absent.

    Raises:
        InvalidRequestError: It is something else.
    """
    if name not in parameters:
        return 0
    parameter = parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, choice) if choice in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise InvalidRequestError(
            f"the parameter '{name}' must be an integer of 0 or more.", reason="PARAMETER_INVALID"
        )
    return int(value)


def _wrong_count(request: pb.ModelInferRequest) -> InvalidRequestError:
    inline = sum(_REGION not in one.parameters for one in request.inputs)
    return InvalidRequestError(
        f"the request has {len(request.raw_input_contents)} raw contents for {inline} inputs outside of shared memory; "
        "send one for each, and no `contents` beside them.",
        reason="CONTENTS_MISSING",
    )
