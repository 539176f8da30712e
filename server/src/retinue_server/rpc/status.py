"""Errors as google.rpc.Status: code, message, ErrorInfo, and RetryInfo where waiting helps."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from retinue_server.errors import Code, OverloadedError, RetinueError

DOMAIN = "retinue"
DETAILS_KEY = "grpc-status-details-bin"

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: RetinueError) -> Status:
    """The status of an error, for one image or for a whole call."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    status = Status(code=error.code.value, message=error.message, details=[_packed(info)])
    if isinstance(error, OverloadedError):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.append(_packed(RetryInfo(retry_delay=delay)))
    return status


def grpc_code(code: Code) -> grpc.StatusCode:
    """The grpc library's name of a code."""
    return _GRPC_CODES[code.value]


def _packed(message: ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
