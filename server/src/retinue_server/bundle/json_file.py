"""Reads files that hold one protobuf message as JSON, whoever wrote them."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from retinue_server.bundle import json_fields
from retinue_server.errors import BundleError

_MOST_LEVELS = 20
_MOST_REASON_CHARACTERS = 300

AnyMessage = TypeVar("AnyMessage", bound=Message)


def read(
    path: Path,
    message: AnyMessage,
    max_bytes: int,
    advice: str,
    check: Callable[[bytes], object] = lambda content: None,
) -> AnyMessage:
    """Reads a file into a message, whose fields are not checked yet.

    Args:
        path: Of the file.
        message: An empty one.
        max_bytes: The largest file that is read.
        advice: What to do about a file that does not hold.
        check: Told the content before anything is made of it; what it raises is raised.

    Raises:
        BundleError: The file is missing, too large, or does not hold such a message.
    """
    with opened(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BundleError(
            f"{path} is larger than {max_bytes} bytes, which no {message.DESCRIPTOR.name} needs; {advice}."
        )
    check(content)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 text; {advice}.") from error
    return parse(text, message, str(path), advice)


def parse(text: str, message: AnyMessage, source: str, advice: str) -> AnyMessage:
    """Reads text into a message, whose fields are not checked yet.

    Args:
        text: A JSON object.
        message: As for `read`.
        source: Where the text comes from.
        advice: As for `read`.

    Raises:
        BundleError: It is none, or has fields that such a message has not.
    """
    if not text.lstrip().startswith("{"):
        raise BundleError(f"{source} is no JSON object; {advice}.")
    # Of a message its type is one of two.
    kind: Any = message.DESCRIPTOR
    try:
        value = json.loads(text, object_pairs_hook=_once)
        json_fields.check(value, kind)
        return json_format.ParseDict(value, message, max_recursion_depth=_MOST_LEVELS)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BundleError(f"{source} is no JSON at {place}: {error.msg.lower()}; {advice}.") from error
    except RecursionError as error:
        raise BundleError(f"{source} is nested too deep; {advice}.") from error
    except json_fields.Unfit as error:
        raise BundleError(f"{source}: {error}.") from error
    except (json_format.ParseError, ValueError) as error:
        # Further lines list what every such message may have.
        raise BundleError(
            f"{source} is not a {message.DESCRIPTOR.full_name}: {first_line(error)}; {advice}."
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which each name is there once.

    Raises:
        Unfit: One is there twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise json_fields.Unfit(f"field `{json_fields.shown(name)}` is there twice; give it once")
        found[name] = value
    return found


def first_line(error: BaseException) -> str:
    """What an error says, for one line: it may quote what came from outside, of any length and of any characters."""
    text = str(error).strip() or type(error).__name__
    return printable(text.splitlines()[0])[:_MOST_REASON_CHARACTERS].rstrip(".")


def printable(text: str) -> str:
    """The text without what steers a terminal, and without halves of characters, which no reply can hold."""
    return "".join(character for character in text if character.isprintable())


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Opens a regular file: to open a pipe may take for ever, and to read a device too.

    Raises:
        BundleError: It is none, or cannot be opened or read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{printable(str(path))} is no regular file; copy it again.")
            yield file
    except OSError as error:
        # Files of weights are named by graphs.
        raise BundleError(
            f"{printable(str(path))} cannot be read: {error.strerror}; copy it again, or let this user read it."
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
