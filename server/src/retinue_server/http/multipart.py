"""Forms with files, multipart/form-data, of bodies that are in memory: each content is copied once.

Source: RFC 7578, and RFC 2046, section 5.1.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from retinue_server.errors import InvalidRequestError

_KIND = b"multipart/form-data"
# Source: RFC 2046, section 5.1.1.
_MOST_BOUNDARY_BYTES = 70
_MOST_HEADER_BYTES = 8192
_DISPOSITION = b"content-disposition"


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a form.

    Attributes:
        name: Its name.
        content: What it holds.
        is_file: Whether it has the name of a file, else it is a text.
    """

    name: str
    content: bytes
    is_file: bool


def boundary(content_type: str) -> bytes | None:
    """What parts a form, by its Content-Type; None where that is another.

    Raises:
        InvalidRequestError: It is a form without a boundary, or with none that may be.
    """
    kind, options = parse_options_header(content_type)
    if kind.lower() != _KIND:
        return None
    found = options.get(b"boundary", b"")
    if not 0 < len(found) <= _MOST_BOUNDARY_BYTES or b"\r" in found or b"\n" in found:
        raise _invalid(f"its Content-Type has no boundary of 1 to {_MOST_BOUNDARY_BYTES} bytes")
    return found


def parts(body: bytes, boundary: bytes, max_parts: int) -> Iterator[Part]:
    """The fields of a form, in order.

    Args:
        body: The whole of it.
        boundary: Between them.
        max_parts: How many are taken.

    Raises:
        InvalidRequestError: It is no such form.
    """
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        position = len(delimiter) - 2
    else:
        position = _after(body, delimiter, 0, "it does not begin with its boundary")
    for _ in range(max_parts):
        if body.startswith(b"--", position):
            return
        head = _after(body, b"\r\n", position, "it ends too early")
        if body[position : head - 2].strip(b" \t"):
            raise _invalid("something follows a boundary on its line")
        # A line with a header may be the first one.
        name, is_file, begin = _head(body, head - 2)
        position = _after(body, delimiter, begin - 2, "it does not end with its boundary and --")
        yield Part(name, body[begin : position - len(delimiter)], is_file)
    if not body.startswith(b"--", position):
        raise _invalid(f"it has more than {max_parts} parts")


def _head(body: bytes, position: int) -> tuple[str, bool, int]:
    """Name and kind of the part whose headers come after the line that ends here, and where its content begins."""
    end = body.find(b"\r\n\r\n", position, position + _MOST_HEADER_BYTES)
    if end < 0:
        raise _invalid(f"the headers of a part do not end within {_MOST_HEADER_BYTES} bytes")
    for line in body[position:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == _DISPOSITION:
            kind, options = parse_options_header(value)
            if kind.lower() == b"form-data" and b"name" in options:
                return options[b"name"].decode(errors="replace"), b"filename" in options, end + 4
    raise _invalid("a part has no Content-Disposition: form-data with a name")


def _after(body: bytes, what: bytes, position: int, otherwise: str) -> int:
    found = body.find(what, position)
    if found < 0:
        raise _invalid(otherwise)
    return found + len(what)


def _invalid(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the form cannot be read: {why}; send it as curl -F image=@cat.jpg does.", reason="MULTIPART_INVALID"
    )
