"""The bytes of the Open Inference Protocol's requests, before protobuf takes them apart: see `wire`."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from retinue.inference import grpc_service_pb2 as pb

from retinue_server.errors import InvalidRequestError
from retinue_server.rpc.wire import fields

_METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
_MOST_FIELDS = 65_536
# Of numbers one by one, of which one byte may take eight in memory.
_MOST_NUMBER_BYTES = 4 * 1024 * 1024
_TEXTS = frozenset({FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE})


def check_fields(data: bytes, method: str = "ModelInfer") -> None:
    """Refuses a request that would take many times its size in memory; looks no further than it must to see that.

    Args:
        data: A request as it came.
        method: Whose.

    Raises:
        InvalidRequestError: It has too many fields, or too many numbers one by one.
        DecodeError: It is no message at all.
    """
    _Count().walk(data, 0, len(data), _METHODS[method].input_type)


class _Count:
    """What a message holds so far."""

    def __init__(self) -> None:
        self._fields = self._number_bytes = 0

    def walk(self, data: bytes, start: int, end: int, message: Descriptor) -> None:
        for number, first, last in fields(data, start, end):
            field = message.fields_by_number.get(number)
            self._fields += 1
            if field is not None and field.cpp_type not in _TEXTS:
                self._number_bytes += last - first
            self._check()
            if field is not None and field.message_type is not None:
                self.walk(data, first, last, field.message_type)

    def _check(self) -> None:
        if self._fields > _MOST_FIELDS or self._number_bytes > _MOST_NUMBER_BYTES:
            raise InvalidRequestError(
                f"the request has more than {_MOST_FIELDS} fields, or more than {_MOST_NUMBER_BYTES} bytes of numbers "
                "one by one; send tensors in `raw_input_contents`.",
                reason="TOO_MANY_FIELDS",
            )
