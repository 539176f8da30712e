"""Errors as google.rpc.Status: code, message, ErrorInfo, and RetryInfo where waiting helps."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from retinue_server.errors import (
    Code,
    DeadlineExpiredError,
    EngineError,
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RetinueError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

DOMAIN = "retinue"
DETAILS_KEY = "grpc-status-details-bin"

_RETRY_SECONDS = 0.1
# A call whose trailers are larger than 8 KiB is lost on its way, and they have the message twice.
_MOST_MESSAGE_BYTES = 1500

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


_ERRORS: dict[int, type[RetinueError]] = {
    kind.code.value: kind
    for kind in (
        InvalidRequestError,
        DeadlineExpiredError,
        ModelNotFoundError,
        UnauthenticatedError,
        PermissionDeniedError,
        OverloadedError,
        ModelControlError,
        UnsupportedError,
        EngineError,
        UnavailableError,
    )
}


def to_status(error: RetinueError) -> Status:
    """The status of an error, for one image or for a whole call."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    # A name in it may be of any length, or no text.
    text = error.message.encode(errors="replace")
    if len(text) > _MOST_MESSAGE_BYTES:
        text = text[:_MOST_MESSAGE_BYTES] + b" ..."
    message = text.decode(errors="ignore")
    status = Status(code=error.code.value, message=message, details=[_packed(info)])
    if isinstance(error, OverloadedError):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.append(_packed(RetryInfo(retry_delay=delay)))
    return status


def reason_of(status: Status) -> str:
    """The reason in a status that `to_status` made; empty where it has none."""
    info = ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def from_rpc_error(error: grpc.aio.AioRpcError) -> RetinueError:
    """The error that another process of this server told of."""
    status = Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    reason = reason_of(status) or None
    # Without one it is the grpc library's own, of what lies between the processes.
    lost = f"the process that was to answer ended the call with {error.code().name}; retry later."
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        lost = "the request's timeout passed before it was answered; allow it more time."
    message = status.message if reason else lost
    kind = _ERRORS.get(error.code().value[0], EngineError)
    if kind is OverloadedError:
        retry = RetryInfo()
        found = any(detail.Unpack(retry) for detail in status.details)
        seconds = retry.retry_delay.ToNanoseconds() / 1e9 if found else _RETRY_SECONDS
        return OverloadedError(message, retry_after_seconds=seconds, reason=reason)
    return kind(message, reason=reason)


def grpc_code(code: Code) -> grpc.StatusCode:
    """The grpc library's name of a code."""
    return _GRPC_CODES[code.value]


def _packed(message: ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
