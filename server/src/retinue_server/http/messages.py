"""Protobuf's messages as JSON's values, and back where callers set fields one by one."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from pydantic_core import to_json as _to_json

from retinue_server.errors import Code, InvalidRequestError
from retinue_server.rpc.status import reason_of

# Of integers, the lowest value and the highest.
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
# COCO's run lengths are text.
_TEXTS = frozenset({"counts", "mask_counts"})
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def to_json(value: Any) -> bytes:
    """A value as JSON, which has neither NaN nor infinity: they are null."""
    return _to_json(value, inf_nan_mode="null")


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON has it.

    Fields have their names in the protos, also where they are zero or empty, but for bytes and those that tell by being
    absent. Integers are numbers, enums names, bytes base64, COCO's run lengths text, and errors what they are over HTTP
    everywhere: `error`, `status` and `reason`.
    """
    if isinstance(message, Status):
        return {
            "error": message.message,
            "status": Code(message.code).name,
            "reason": reason_of(message),
        }
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
        if field.type != FieldDescriptor.TYPE_BYTES or getattr(message, field.name)
    }


def fill(message: Message, options: Mapping[str, Sequence[str]]) -> None:
    """Sets fields of a message by texts, as they come in queries and forms.

    A dotted name leads into a message within, as `classify_with.top_k` does, but not into lists of messages; and bytes
    cannot be set.

    Args:
        message: Whose.
        options: The texts of each field, several for one that is a list.

    Raises:
        InvalidRequestError: There is no such field, or it does not take such a text.
    """
    # Of a message its type is one of two.
    kind: Any = message.DESCRIPTOR
    fields = _fields(kind)
    for name, texts in options.items():
        field = fields.get(name)
        if field is None:
            raise InvalidRequestError(
                f"there is no option '{name[:128]}'; there are: {', '.join(fields)}.", reason="OPTION_UNKNOWN"
            )
        try:
            _set(message, name, field, [_read(field, text) for text in texts])
        except (ValueError, TypeError) as error:
            raise InvalidRequestError(
                f"option '{name}' cannot be '{', '.join(texts)[:128]}'{_choices(field)}.",
                reason="OPTION_INVALID",
            ) from error


def _fields(kind: Any, within: str = "") -> dict[str, FieldDescriptor]:
    """The fields of a message that a text can set, by name, and those of messages within it."""
    found: dict[str, FieldDescriptor] = {}
    for field in kind.fields:
        if field.message_type is None:
            if field.type != FieldDescriptor.TYPE_BYTES:
                found[within + field.name] = field
        elif not field.is_repeated:
            found |= _fields(field.message_type, f"{within}{field.name}.")
    return found


def _set(message: Any, name: str, field: FieldDescriptor, values: list[Any]) -> None:
    *within, last = name.split(".")
    for step in within:
        message = getattr(message, step)
        # It is there also where all of it is zero or empty.
        message.SetInParent()
    if field.is_repeated:
        getattr(message, last).extend(values)
    else:
        (value,) = values
        setattr(message, last, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        return {str(key): _one(values, one) for key, one in sorted(value.items())}
    if field.is_repeated:
        return [_one(field, one) for one in value]
    return _one(field, value)


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.name in _TEXTS:
            return value.decode("ascii")
        return base64.b64encode(value).decode()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        # The fewest digits that are this number in 32 bits.
        return float(str(np.float32(value)))
    return value


def _read(field: FieldDescriptor, text: str) -> Any:
    if field.enum_type is not None:
        names = _enum_names(field.enum_type)
        if text.lower() not in names:
            raise ValueError(text)
        return names[text.lower()]
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text.lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.lower()]
    if field.cpp_type in _RANGES:
        return int(text)
    return float(text) if field.cpp_type in _FLOATS else text


def _enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """The names of an enum without what they all begin with: of PRIORITY_HIGH, high."""
    unspecified, *values = enum.values
    prefix = unspecified.name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in values}


def _choices(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"; choose {' or '.join(_enum_names(field.enum_type))}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "; it is true or false"
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return f"; it is a single whole number from {low} to {high}"
    return "; it is a single number" if field.cpp_type in _FLOATS else "; give it once"
