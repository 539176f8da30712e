"""The bytes of a ModelInferRequest, before protobuf takes them apart: see `wire`."""

from retinue.inference import grpc_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc.wire import fields

_INPUTS = pb.ModelInferRequest.INPUTS_FIELD_NUMBER
_CONTENTS = pb.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER
_BYTES_CONTENTS = pb.InferTensorContents.BYTES_CONTENTS_FIELD_NUMBER
_MOST_FIELDS = 65_536
# Of integers of one byte, of which each takes eight in memory.
_MOST_VALUE_BYTES = 4 * 1024 * 1024


def check_fields(data: bytes) -> None:
    """Refuses a request that would take many times its size in memory; looks no further than it must to see that.

    Args:
        data: A request as it came, of any method.

    Raises:
        InvalidRequestError: It has too many fields, or too many values one by one.
        DecodeError: It is no message at all.
    """
    count = value_bytes = 0
    for number, start, end in fields(data, 0, len(data)):
        count += 1
        if number == _INPUTS:
            for inner, inner_start, inner_end in fields(data, start, end):
                count += 1
                if inner == _CONTENTS:
                    for values, values_start, values_end in fields(data, inner_start, inner_end):
                        count += 1
                        if values != _BYTES_CONTENTS:
                            value_bytes += values_end - values_start
                        _check(count, value_bytes)
                _check(count, value_bytes)
        _check(count, value_bytes)


def _check(count: int, value_bytes: int) -> None:
    if count > _MOST_FIELDS or value_bytes > _MOST_VALUE_BYTES:
        raise InvalidRequestError(
            f"the request has more than {_MOST_FIELDS} fields, or more than {_MOST_VALUE_BYTES} bytes of values one by "
            "one; send tensors in `raw_input_contents`.",
            reason="TOO_MANY_FIELDS",
        )
