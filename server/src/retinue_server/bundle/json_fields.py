"""Holds JSON against the message that it is to become, and says of the first field that does not fit what it takes."""

import json
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_WHOLE = re.compile(r"-?[0-9]{1,20}")
_HALVES = re.compile("[\ud800-\udfff]")
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
_MOST_SHOWN = 64


class Unfit(ValueError):
    """A field does not fit; what it says begins with the field."""


def check(value: dict[str, Any], kind: Descriptor, place: str = "") -> None:
    """Holds an object against a message's fields, and theirs; null stands for a field that is left out.

    Args:
        value: As `json.loads` gives it.
        kind: The message.
        place: Of the object, with a dot at its end; empty for all of it.

    Raises:
        Unfit: A field is unknown, or takes something else.
    """
    known = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    of_oneof: dict[str, str] = {}
    for name, one in value.items():
        field = known.get(name)
        if field is None:
            raise Unfit(f"field `{place}{shown(name)}` is unknown; there are {_names(kind)}")
        if one is None:
            continue
        oneof = field.containing_oneof
        if oneof is not None and (other := of_oneof.setdefault(oneof.name, name)) != name:
            raise Unfit(f"field `{place}{name}` cannot be set beside `{place}{other}`; leave one of them out")
        _check_field(one, field, f"{place}{name}")


def _check_field(value: Any, field: FieldDescriptor, place: str) -> None:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        if not isinstance(value, dict):
            raise _unfit(place, "an object of names and values", value)
        for key, one in value.items():
            _check_one(one, message.fields_by_name["value"], f"{place}.{shown(key)}")
    elif field.is_repeated:
        if not isinstance(value, list):
            raise _unfit(place, "a list", value)
        for number, one in enumerate(value):
            _check_one(one, field, f"{place}[{number}]")
    else:
        _check_one(value, field, place)


def _check_one(value: Any, field: FieldDescriptor, place: str) -> None:
    if field.message_type is not None:
        if not isinstance(value, dict):
            raise _unfit(place, f"an object with {_names(field.message_type)}", value)
        check(value, field.message_type, f"{place}.")
        return
    if field.enum_type is not None:
        # A number without a name may be of a newer version: whoever reads the field says so.
        if not ((_is_text(value) and value in field.enum_type.values_by_name) or _is_whole(value)):
            names = [one.name for one in field.enum_type.values if one.number]
            raise _unfit(place, f"one of {', '.join(names)}", value)
        return
    if field.cpp_type in _RANGES:
        low, end = _RANGES[field.cpp_type]
        if not _is_whole(value):
            raise _unfit(place, "a whole number", value)
        if not low <= int(value) < end:
            raise _unfit(place, f"from {low} to {end - 1}", value)
        return
    fits, takes = _taken(field)
    if not fits(value):
        raise _unfit(place, takes, value)


def _taken(field: FieldDescriptor) -> tuple[Callable[[Any], bool], str]:
    """What a field takes that is a fraction, a truth value or text, and that in words."""
    if field.cpp_type in _FLOATS:
        return _is_number, "a number"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return lambda value: isinstance(value, bool), "true or false"
    return _is_text, "text"


def _is_whole(value: Any) -> bool:
    """Protobuf's JSON may have numbers as texts, since others read those of 64 bits as floats."""
    if isinstance(value, str):
        return _WHOLE.fullmatch(value) is not None
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _is_text(value: Any) -> bool:
    # JSON can name halves of characters.
    return isinstance(value, str) and _HALVES.search(value) is None


def _unfit(place: str, takes: str, value: Any) -> Unfit:
    if isinstance(value, dict | list):
        found = "an object" if isinstance(value, dict) else "a list"
    else:
        found = _cut(json.dumps(value))
    return Unfit(f"field `{place}` must be {takes}, not {found}")


def _names(kind: Descriptor) -> str:
    return ", ".join(f"`{field.name}`" for field in kind.fields)


def shown(name: str) -> str:
    """A name as messages have it: not too long, and without what steers a terminal."""
    return _cut("".join(character for character in name if character.isprintable()))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
