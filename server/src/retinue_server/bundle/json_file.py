"""Reads files that hold one protobuf message as JSON, whoever wrote them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from retinue_server.errors import BundleError

_MOST_LEVELS = 20
_MOST_REASON_CHARACTERS = 300

AnyMessage = TypeVar("AnyMessage", bound=Message)


def read(path: Path, message: AnyMessage, max_bytes: int, advice: str) -> AnyMessage:
    """Reads a file into a message, whose fields are not checked yet.

    Args:
        path: Of the file.
        message: An empty one.
        max_bytes: The largest file that is read.
        advice: What to do about a file that does not hold.

    Raises:
        BundleError: The file is missing, too large, or does not hold such a message.
    """
    with opened(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BundleError(
            f"{path} is larger than {max_bytes} bytes, which no {message.DESCRIPTOR.name} needs; {advice}."
        )
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
    try:
        return json_format.Parse(text, message, max_recursion_depth=_MOST_LEVELS)
    except (json_format.ParseError, RecursionError) as error:
        # Further lines list what every such message may have.
        raise BundleError(
            f"{source} is not a {message.DESCRIPTOR.full_name}: {first_line(error)}; {advice}."
        ) from error


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
                raise BundleError(f"{path} is no regular file; copy it again.")
            yield file
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}; copy it again, or let this user read it."
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
