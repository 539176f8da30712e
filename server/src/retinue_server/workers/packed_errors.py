"""How errors lie in the frames between processes, so that callers of either are told the same."""

import struct

from retinue_server.errors import (
    DeadlineExpiredError,
    DeviceError,
    EngineError,
    ImageError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RetinueError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    WrongTaskError,
)

_ERROR = struct.Struct("<BdHI")
_ERRORS: tuple[type[RetinueError], ...] = (
    RetinueError,
    InvalidRequestError,
    ImageError,
    ModelNotFoundError,
    WrongTaskError,
    OverloadedError,
    UnavailableError,
    DeadlineExpiredError,
    EngineError,
    DeviceError,
    ModelControlError,
    UnsupportedError,
    UnauthenticatedError,
    PermissionDeniedError,
)
_ERROR_NUMBERS = {error: number for number, error in enumerate(_ERRORS)}


def pack_error(error: RetinueError) -> bytes:
    """An error as bytes: what kind it is, its reason, and what it says."""
    number = next(_ERROR_NUMBERS[base] for base in type(error).__mro__ if base in _ERROR_NUMBERS)
    retry_after_seconds = error.retry_after_seconds if isinstance(error, OverloadedError) else 0.0
    reason, message = error.reason.encode(), error.message.encode()
    return _ERROR.pack(number, retry_after_seconds, len(reason), len(message)) + reason + message


def unpack_error(body: bytes, position: int) -> tuple[RetinueError, int]:
    """Reads an error; returns it and the position after it.

    Args:
        body: Of a frame.
        position: Where the error begins.

    Raises:
        struct.error: There is none.
        ValueError: It is cut off, or no text.
        IndexError: It is of no known kind.
    """
    number, retry_after_seconds, reason_bytes, message_bytes = _ERROR.unpack_from(body, position)
    reason_start = position + _ERROR.size
    message_start = reason_start + reason_bytes
    end = message_start + message_bytes
    if end > len(body):
        raise ValueError("an error is cut off")
    reason, message = body[reason_start:message_start].decode(), body[message_start:end].decode()
    kind = _ERRORS[number]
    if kind is OverloadedError:
        return OverloadedError(message, retry_after_seconds=retry_after_seconds, reason=reason), end
    return kind(message, reason=reason), end
