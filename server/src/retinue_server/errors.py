"""Everything that can go wrong on purpose, with the code and the reason a caller sees.

RetinueError                     code                  when
├── InvalidRequestError          INVALID_ARGUMENT      an option out of its range, no images, too many
├── ImageError                   INVALID_ARGUMENT      this one image cannot be read; its neighbours can
├── ModelNotFoundError           NOT_FOUND             no such model or version
├── ModelControlError            FAILED_PRECONDITION   a model cannot be loaded, or calls may not do so
├── UnauthenticatedError         UNAUTHENTICATED       nobody knows who calls
├── PermissionDeniedError        PERMISSION_DENIED     this caller may not do it
├── UnsupportedError             UNIMPLEMENTED         what the protocol has and this server has not
├── WrongTaskError               FAILED_PRECONDITION   the model answers another kind of question
├── OverloadedError              RESOURCE_EXHAUSTED    the queue is full or too long for the deadline, or
│                                                      there are too many calls or bytes at once
├── UnavailableError             UNAVAILABLE           loading or draining
├── DeadlineExpiredError         DEADLINE_EXCEEDED     the deadline passed in the queue
├── EngineError                  INTERNAL              the network or a worker failed
│   └── DeviceError              INTERNAL              the GPU does nothing for this process any more
└── StartupError                 (exit code 2)         the server cannot start as told
    ├── BundleError              (exit code 2)         a bundle that does not hold what it promises
    └── MirrorError              (exit code 2)         models elsewhere that cannot be listed or copied

Messages are for the caller: they say what to do and show no internals. Reasons are stable, for programs.
"""

from enum import Enum
from typing import ClassVar


class Code(Enum):
    """The gRPC status codes Retinue answers with; values are those of google.rpc.Code."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class RetinueError(Exception):
    """Base of every error that Retinue raises on purpose.

    Attributes:
        code: The gRPC status code.
        reason: Stable upper-case identifier, the `reason` of google.rpc.ErrorInfo.
        message: What happened and what the caller can do about it.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class InvalidRequestError(RetinueError):
    """The request as a whole cannot be answered, whatever the state of the server."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class ImageError(RetinueError):
    """One image cannot be read; the others of its request can still be answered."""

    code = Code.INVALID_ARGUMENT
    reason = "IMAGE_UNDECODABLE"


class ModelNotFoundError(RetinueError):
    """No model of that name, or not in that version."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class ModelControlError(RetinueError):
    """A model cannot be loaded from what is there, or models are not loaded and unloaded by calls here."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_CONTROL_OFF"


class UnauthenticatedError(RetinueError):
    """Whoever calls has not said who that is, or nobody knows them."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(RetinueError):
    """Whoever calls may not do this."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class UnsupportedError(RetinueError):
    """The protocol knows it, and this server does not do it."""

    code = Code.UNIMPLEMENTED
    reason = "UNSUPPORTED"


class WrongTaskError(RetinueError):
    """The model exists but answers another kind of question."""

    code = Code.FAILED_PRECONDITION
    reason = "WRONG_TASK"


# A token may be for a call in a thousand years, which no reply can say.
_LONGEST_RETRY_SECONDS = 86_400.0


class OverloadedError(RetinueError):
    """There is more work than the server can finish in time.

    Attributes:
        retry_after_seconds: When a new attempt has a fair chance; a day at most.
    """

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, message: str, *, retry_after_seconds: float, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = min(retry_after_seconds, _LONGEST_RETRY_SECONDS)


class UnavailableError(RetinueError):
    """The server is not taking work now: loading, draining, or its engine has failed."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExpiredError(RetinueError):
    """The caller's deadline passed before the work was begun."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXPIRED"


class EngineError(RetinueError):
    """The network or a worker failed; the log says how."""

    code = Code.INTERNAL
    reason = "ENGINE_FAILED"


class DeviceError(EngineError):
    """The GPU has failed in a way that outlasts the batch: nothing that was opened on it works any more."""

    reason = "DEVICE_FAILED"


class StartupError(RetinueError):
    """The server cannot start as it was told to."""

    reason = "STARTUP"


class BundleError(StartupError):
    """A bundle does not hold what it promises; the message names the file and the field."""

    reason = "BUNDLE_INVALID"


class MirrorError(StartupError):
    """Models that lie on no disk of this machine cannot be listed or copied."""

    reason = "MODELS_UNREACHABLE"
