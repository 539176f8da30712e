"""Random protobuf messages: valid ones of any type, whatever its fields are, and broken bytes made of them."""

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from tests.fuzz.mutations import mutated

_KINDS = FieldDescriptor
_NUMBERS = (0, 1, 2, 3, 5, 8, 255, 1000, 2**31 - 1)
_LOWEST = {_KINDS.CPPTYPE_INT32: -(2**31), _KINDS.CPPTYPE_INT64: -(2**63)}
_HIGHEST = {
    _KINDS.CPPTYPE_UINT32: 2**32 - 1,
    _KINDS.CPPTYPE_UINT64: 2**64 - 1,
    _KINDS.CPPTYPE_INT64: 2**63 - 1,
}
_FLOATS = (0.0, 0.5, 1.0, -1.0, 1e30, float("nan"), float("inf"))


class RandomMessages:
    """Makes messages up by a seed.

    Args:
        chance: The dice.
        texts: What texts are often, such as names that the server knows.
        contents: What bytes are often, such as files of images.
    """

    def __init__(self, chance: random.Random, texts: Sequence[str], contents: Sequence[bytes]) -> None:
        self._chance = chance
        self._texts = texts
        self._contents = contents

    def message(self, kind: Descriptor, depth: int = 0) -> Message:
        """A valid message."""
        made = message_factory.GetMessageClass(kind)()
        for field in kind.fields:
            if self._chance.random() < 0.5 and not (field.message_type and depth > 3):
                self._set(made, field, depth)
        return made

    def data(self, kind: Descriptor) -> bytes:
        """The bytes of a message, which often are broken."""
        data = self.message(kind).SerializeToString()
        if self._chance.random() < 0.4:
            (data,) = mutated([data or b"\0"], 1, 1 << 20, self._chance)
        return data

    def _set(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._put(getattr(made, field.name), self.message(field.message_type, depth + 1))
        elif field.is_repeated:
            for _ in range(self._chance.choice((1, 1, 2, 3, 9))):
                value = self._value(field, depth)
                getattr(made, field.name).append(value)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(made, field.name, self._value(field, depth))

    def _put(self, entries: Any, entry: Any) -> None:
        value = entry.value
        if isinstance(value, Message):
            entries[entry.key].CopyFrom(value)
        else:
            entries[entry.key] = value

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        chance = self._chance
        if field.message_type is not None:
            return self.message(field.message_type, depth + 1)
        if field.enum_type is not None:
            return chance.choice([*(value.number for value in field.enum_type.values), 99])
        return chance.choice(self._choices(field))

    def _choices(self, field: FieldDescriptor) -> Sequence[Any]:
        """What a number, a text or bytes may be."""
        chance = self._chance
        if field.type == _KINDS.TYPE_BYTES:
            return [*self._contents, chance.randbytes(chance.choice((0, 3, 50)))]
        if field.cpp_type == _KINDS.CPPTYPE_STRING:
            return [*self._texts, "".join(chance.choices("aé\0 /{", k=9))]
        if field.cpp_type == _KINDS.CPPTYPE_BOOL:
            return (False, True)
        if field.cpp_type in (_KINDS.CPPTYPE_FLOAT, _KINDS.CPPTYPE_DOUBLE):
            return _FLOATS
        ends = [bound[field.cpp_type] for bound in (_LOWEST, _HIGHEST) if field.cpp_type in bound]
        return [*_NUMBERS, *ends]
