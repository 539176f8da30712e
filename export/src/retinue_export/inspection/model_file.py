"""An ONNX file as it lies on the disk: read within bounds, whatever it is called, and its text checked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto

from retinue_export.errors import ExportError

MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one message, and so all that one file without external data can be."""
_UNREAD = frozenset({"doc_string"})
"""Text that old exporters filled with stack traces of any encoding, and that nobody looks at."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that holds a graph.

    Attributes:
        model: what it says; numbers outside of the file are left there.
        size_bytes: of the file.
        sha256: of the file, lower-case hexadecimal.
    """

    model: ModelProto
    size_bytes: int
    sha256: str


def read(path: Path) -> ModelFile:
    """Reads an ONNX file.

    Raises:
        ExportError: it cannot be read, is too large, is no ONNX file or not all of one, or has text that is not UTF-8.
    """
    content = _content(path)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX file, or was cut short: copy or export it again.") from error
    if not (model.graph.node and model.graph.output and model.opset_import):
        raise ExportError(f"{path} is no ONNX file, or an empty one: it has no operators.")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ExportError(
            f"{path} is no valid ONNX file: a name or note in it is not UTF-8 text; export it again."
        )
    return ModelFile(model, len(content), hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ExportError(f"There is no ONNX file {path}.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ExportError(
                f"{path} has {size} bytes, more than the {MAX_BYTES} that an ONNX file can have."
            )
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error


def _texts(message: Message) -> Iterator[str | bytes]:
    """All text in a message. Protobuf gives bytes in the place of what is not UTF-8."""
    if isinstance(message, TensorProto):  # whose numbers need not be looked at
        yield message.name
        for entry in (*message.external_data, *message.metadata_props):
            yield from (entry.key, entry.value)
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.name not in _UNREAD:
            yield from (value,) if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _texts(part)
