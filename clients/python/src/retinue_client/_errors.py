"""What can go wrong in a call, as one tree.

RetinueError                      code                 when
├── ImageError                    INVALID_ARGUMENT     this one image has no answer
├── InvalidRequestError           INVALID_ARGUMENT     an option out of its range, no images
│   └── RequestTooLargeError      INVALID_ARGUMENT     more bytes than the server accepts
├── ModelNotFoundError            NOT_FOUND            no such model or version
├── WrongTaskError                FAILED_PRECONDITION  the model answers another question
├── ModelControlError             FAILED_PRECONDITION  a model cannot be loaded, or not by calls
├── OverloadedError               RESOURCE_EXHAUSTED   more work than can be done in time
├── UnavailableError              UNAVAILABLE          loading, draining, connection lost
│   └── ServerUnreachableError    UNAVAILABLE          nothing answers at the address
├── DeadlineExceededError         DEADLINE_EXCEEDED    no answer within the time given
├── AuthenticationError           UNAUTHENTICATED      or PERMISSION_DENIED
└── ServerError                   INTERNAL             and every other code
    └── ResponseError             INTERNAL             an answer against the protocol

An `ImageError` is raised where the call was about one image, and returned as a value in the image's place
where it was about several. A mistake in the calling code, such as an object that is no image, is a
`TypeError` or a `ValueError`.
"""

from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

_STATUS_DETAILS_KEY = "grpc-status-details-bin"
_CODES_BY_NUMBER = {code.value[0]: code for code in StatusCode}


class RetinueError(Exception):
    """Base of everything that a call raises because of what it met, not because of how it was written.

    Attributes:
        message: What happened and what can be done about it. For people.
        code: The gRPC status code.
        reason: Stable upper-case identifier, such as "QUEUE_FULL". For programs.
        retry_after_seconds: After which time the server advises to try again, or None where it gave no
            advice.
    """

    code: StatusCode = StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.reason = reason or type(self).reason
        self.retry_after_seconds = retry_after_seconds

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason}: {self})"

    def to_dict(self) -> dict[str, Any]:
        """The error as values that JSON knows: code, reason, message and retry_after_seconds."""
        return {
            "code": self.code.name,
            "reason": self.reason,
            "message": self.message,
            "retry_after_seconds": self.retry_after_seconds,
        }


class ImageError(RetinueError):
    """One image has no answer; the others of its call have theirs.

    Attributes:
        source: Which image: its path, or a description such as "array uint8 [480, 640, 3]".
    """

    code = StatusCode.INVALID_ARGUMENT
    reason = "IMAGE_INVALID"

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        code: StatusCode | None = None,
        reason: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, retry_after_seconds=retry_after_seconds)
        self.source = source

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message


class InvalidRequestError(RetinueError):
    """The request as a whole cannot be answered, whatever the state of the server."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class RequestTooLargeError(InvalidRequestError):
    """A request has more bytes than the server accepts.

    The code is RESOURCE_EXHAUSTED where gRPC stopped the message before the server saw it.
    """

    reason = "REQUEST_TOO_LARGE"


class ModelNotFoundError(RetinueError):
    """No model of that name, or not in that version."""

    code = StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class WrongTaskError(RetinueError):
    """The model exists but answers another kind of question."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "WRONG_TASK"


class ModelControlError(RetinueError):
    """A model cannot be loaded from what is there, or the server does not load and unload models by calls."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "MODEL_CONTROL_OFF"


class OverloadedError(RetinueError):
    """The server has more work than it can finish in time; `retry_after_seconds` says when to come back."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"


class UnavailableError(RetinueError):
    """The server takes no work at the moment, or the connection to it was lost during the call."""

    code = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class ServerUnreachableError(UnavailableError):
    """Nothing answers at the address."""

    reason = "SERVER_UNREACHABLE"


class DeadlineExceededError(RetinueError):
    """No answer came within the time given."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class AuthenticationError(RetinueError):
    """The server wants credentials, or other ones than it was given."""

    code = StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class ServerError(RetinueError):
    """The server failed, or is not a Retinue server."""


class ResponseError(ServerError):
    """An answer that does not hold what the protocol promises.

    Where it is that of one image of several, there is an `ImageError` of this reason in the image's place.
    """

    reason = "RESPONSE_INVALID"


_ERRORS_BY_CODE: dict[StatusCode, type[RetinueError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    StatusCode.NOT_FOUND: ModelNotFoundError,
    StatusCode.FAILED_PRECONDITION: ModelControlError,
    StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    StatusCode.UNAVAILABLE: UnavailableError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.UNAUTHENTICATED: AuthenticationError,
    StatusCode.PERMISSION_DENIED: AuthenticationError,
}
_ERRORS_BY_REASON: dict[str, type[RetinueError]] = {
    error.reason: error for error in (RequestTooLargeError, WrongTaskError)
}


def error_from_call(
    call: grpc.RpcError, address: str, timeout_seconds: float | None, *, closed: bool
) -> RetinueError:
    """Translates what gRPC raised for a whole call.

    Args:
        call: The exception; the synchronous and the asynchronous kind both have code, details and metadata.
        address: Which server was called.
        timeout_seconds: The call's deadline, counted from its start, or None.
        closed: Whether the client was closed meanwhile.
    """
    # Both kinds of exception are also grpc.Call, whose type says less than what is there.
    answer: Any = call
    code: StatusCode = answer.code()
    text: str = answer.details() or ""
    status = status_pb2.Status()
    for key, value in answer.trailing_metadata() or ():
        if key == _STATUS_DETAILS_KEY:
            # What somebody on the way has damaged is as good as absent.
            with suppress(DecodeError):
                status = status_pb2.Status.FromString(value)
    reason, retry_after_seconds = _details(status)
    error: RetinueError
    if reason is None and code is StatusCode.CANCELLED and closed:
        error = client_closed()
    elif reason is None:
        error = _error_of_the_transport(code, text, address, timeout_seconds)
    else:
        error = _error_of_the_server(code, text, reason, retry_after_seconds)
    error.__cause__ = call
    return error


def error_from_status(status: Any) -> RetinueError:
    """Translates the google.rpc.Status with which a whole call was refused, as Retinue makes it."""
    reason, retry_after_seconds = _details(status)
    code = _CODES_BY_NUMBER.get(status.code, StatusCode.UNKNOWN)
    return _error_of_the_server(code, status.message, reason or code.name, retry_after_seconds)


def client_closed() -> UnavailableError:
    """The error of a call that was under way when its client was closed."""
    return UnavailableError(
        "The call was cancelled because the client was closed.",
        code=StatusCode.CANCELLED,
        reason="CANCELLED",
    )


def image_error_from_status(status: Any, source: str) -> ImageError:
    """Translates the google.rpc.Status that stands in the place of one image's result."""
    reason, retry_after_seconds = _details(status)
    return ImageError(
        status.message,
        source=source,
        code=_CODES_BY_NUMBER.get(status.code, StatusCode.UNKNOWN),
        reason=reason,
        retry_after_seconds=retry_after_seconds,
    )


def _details(status: Any) -> tuple[str | None, float | None]:
    """The reason (None without a google.rpc.ErrorInfo) and the advised delay in seconds of a Status."""
    reason = retry_after_seconds = None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        with suppress(DecodeError):
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                retry_after_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return reason, retry_after_seconds


def _error_of_the_server(
    code: StatusCode, text: str, reason: str, retry_after_seconds: float | None
) -> RetinueError:
    error_class = _ERRORS_BY_REASON.get(reason) or _ERRORS_BY_CODE.get(code, ServerError)
    return error_class(text, code=code, reason=reason, retry_after_seconds=retry_after_seconds)


def _error_of_the_transport(
    code: StatusCode, text: str, address: str, timeout_seconds: float | None
) -> RetinueError:
    """An error for what gRPC itself reports, in words that help someone who never saw gRPC."""
    if code is StatusCode.UNAVAILABLE:
        return _no_connection(text, address)
    if code is StatusCode.DEADLINE_EXCEEDED:
        within = "in time" if timeout_seconds is None else f"within {round(timeout_seconds, 3):g} s"
        return DeadlineExceededError(
            f"{address} did not answer {within}. Give it more time, or send fewer images at once."
        )
    if code is StatusCode.CANCELLED:
        return UnavailableError(
            f"The server at {address} ended the connection during the call: it is shutting down, or something on "
            "the way cut the call off.",
            reason="CONNECTION_LOST",
        )
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text.lower():
        return RequestTooLargeError(
            f"{address} does not accept a message of this size ({text}). Send smaller images or fewer in one "
            "request (max_request_bytes), or raise the server's message limit.",
            code=code,
            reason="MESSAGE_TOO_LARGE",
        )
    if code is StatusCode.UNIMPLEMENTED:
        return ServerError(
            f"The server at {address} speaks gRPC but does not have this call: it is another server, "
            "or another version of Retinue.",
            code=code,
            reason="UNIMPLEMENTED",
        )
    error_class = _ERRORS_BY_CODE.get(code, ServerError)
    return error_class(text or f"{address} answered {code.name}.", code=code, reason=code.name)


def _no_connection(text: str, address: str) -> UnavailableError:
    """Tells a server that is not there from one that is not Retinue and one that went away."""
    lower = text.lower()
    if trouble := _trouble_with_tls(lower):
        return ServerUnreachableError(f"{address} {trouble}", reason="TLS_FAILED")
    # A server that is shutting down does so, too: it is no certain failure of TLS, and may get better.
    if "failed to connect" in lower and "socket closed" in lower:
        return ServerUnreachableError(
            f"{address} closes connections before anything is said. It may speak TLS: name its authority with "
            "tls, --tls-ca or RETINUE_TLS_CA; or want to see a certificate: name yours with --tls-certificate and "
            "--tls-key; or be shutting down."
        )
    if "http1" in lower or "http/1" in lower or "http2" in lower or "alpn" in lower:
        return ServerUnreachableError(
            f"{address} does not speak gRPC. Is it Retinue's HTTP port? The gRPC port is 8001 by default."
        )
    if "backend unhealthy" in lower:
        return UnavailableError(
            f"No server at {address} is ready: each is loading its models, shutting down, or failing. Try again, or "
            "look at its log.",
            reason="NOT_READY",
        )
    if "failed to connect" in lower or "resol" in lower:
        port = address.rpartition(":")[2]
        on_port = f" --grpc-port {port}" if port.isdigit() else ""
        # gRPC tells of the last of a name's several addresses, and something may listen at the others.
        others = (
            " If something listens at another address of that name, it speaks TLS or is no gRPC port, as 8080 is none."
            if _is_refused_at_ipv6(lower, address)
            else ""
        )
        return ServerUnreachableError(
            f"No Retinue server answers at {address} ({_cause(lower)}). Start one with "
            f"`retinue-server --models DIR{on_port}`, or name another address with --server HOST:PORT "
            f"or RETINUE_SERVER.{others}"
        )
    return UnavailableError(
        f"The connection to {address} was lost during the call ({text}).", reason="CONNECTION_LOST"
    )


def _is_refused_at_ipv6(lower: str, address: str) -> bool:
    """Whether a connection to a name was refused at an IPv6 address of it."""
    return "refused" in lower and ("ipv6:" in lower or "[::1]" in lower) and "[" not in address


def _trouble_with_tls(lower: str) -> str:
    """What keeps a connection from being encrypted, and what to do; empty where something else is the matter."""
    if (
        "certificate_verify_failed" in lower
        or "peer certificate" in lower
        or "hostname verification" in lower
    ):
        return (
            "shows a certificate that this client does not trust. Name the authority that has signed it with tls, "
            "--tls-ca or RETINUE_TLS_CA, and the server as the certificate names it."
        )
    if "wrong_version_number" in lower:
        return "does not speak TLS. Leave tls, --tls-ca and RETINUE_TLS_CA away, or start it with --tls-certificate."
    if "certificate_required" in lower:
        return "wants to see a certificate: name yours with tls, or --tls-certificate and --tls-key."
    return ""


def _cause(lower: str) -> str:
    """Why no connection came about, in two or three words."""
    for sign, words in (
        ("refused", "connection refused"),
        ("resol", "unknown host name"),
        ("timed out", "no reply from the host"),
        ("timeout", "no reply from the host"),
        ("unreachable", "network unreachable"),
    ):
        if sign in lower:
            return words
    return "no connection"
