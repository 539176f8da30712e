"""Small values that exporters write as text: Python literals and JSON, read within bounds."""

import ast
import json
import math
from collections.abc import Mapping
from pathlib import Path

from retinue_export.errors import ExportError

_MAX_LITERAL = 1 << 20
_MAX_JSON_BYTES = 1 << 23
_MAX_LABELS = 65536
_MAX_INTEGER = 2**31 - 1
"""Far more than any size; larger ones may be so long that Python will not print them."""


def literal(text: str) -> object:
    """What a Python literal says, or None where it is none; nothing of it is run."""
    if len(text) > _MAX_LITERAL:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def json_object(path: Path) -> dict[str, object]:
    """Reads a JSON file that holds an object.

    Raises:
        ExportError: it cannot be read, is too large, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ExportError(f"{path} is larger than {_MAX_JSON_BYTES} bytes.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON.") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} is not a JSON object.")
    return content


def names(told: object) -> tuple[str, ...] | None:
    """The names of classes by id, of a list or of a mapping from 0, 1, 2, ... (as numbers or text); else None."""
    if isinstance(told, Mapping):
        try:
            by_id = {int(key): value for key, value in told.items()}
        except (TypeError, ValueError, OverflowError):
            return None
        if sorted(by_id) != list(range(len(told))):
            return None
        told = [by_id[number] for number in range(len(by_id))]
    if not isinstance(told, list | tuple) or not 0 < len(told) <= _MAX_LABELS:
        return None
    labels = tuple(map(_label, told))
    return labels if all(labels) else None


def integers(told: object, count: int) -> tuple[int, ...] | None:
    """`count` integers from 1 to 2^31 - 1, of a list of them or of one that stands for all; else None."""
    values = [told] * count if isinstance(told, int) else told
    if not isinstance(values, list | tuple) or len(values) != count:
        return None
    whole = tuple(value for value in values if isinstance(value, int) and 0 < value <= _MAX_INTEGER)
    return whole if len(whole) == count else None


def number(told: object) -> float | None:
    """A finite number; else None."""
    try:
        value = float(told) if isinstance(told, int | float) else math.nan
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _label(told: object) -> str:
    """A name as text that a manifest can hold; else nothing."""
    try:
        text = str(told).strip() if isinstance(told, str | int | float) else ""
        text.encode()
    except ValueError:  # an integer of too many digits, or half of a surrogate pair
        return ""
    return text
