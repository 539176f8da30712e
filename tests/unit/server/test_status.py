import inspect
import re

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from retinue_server import errors
from retinue_server.errors import Code, OverloadedError, RetinueError
from retinue_server.rpc.status import grpc_code, to_status

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, RetinueError) and not issubclass(kind, errors.StartupError)
]
# DESIGN's table.
CODES = {
    "RetinueError": "INTERNAL",
    "InvalidRequestError": "INVALID_ARGUMENT",
    "ImageError": "INVALID_ARGUMENT",
    "ModelNotFoundError": "NOT_FOUND",
    "ModelControlError": "FAILED_PRECONDITION",
    "UnauthenticatedError": "UNAUTHENTICATED",
    "PermissionDeniedError": "PERMISSION_DENIED",
    "UnsupportedError": "UNIMPLEMENTED",
    "WrongTaskError": "FAILED_PRECONDITION",
    "OverloadedError": "RESOURCE_EXHAUSTED",
    "UnavailableError": "UNAVAILABLE",
    "DeadlineExpiredError": "DEADLINE_EXCEEDED",
    "EngineError": "INTERNAL",
    "DeviceError": "INTERNAL",
}


def made(kind: type[RetinueError]) -> RetinueError:
    if issubclass(kind, OverloadedError):
        return kind("what to do.", retry_after_seconds=1.25)
    return kind("what to do.")


def detail(status: Status, message: Message) -> bool:
    """Reads the detail of the message's type into it; false where there is none."""
    return any(packed.Unpack(message) for packed in status.details)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("x" * 60_000, "x" * 1500 + " ..."),
        ("\u6f22" * 60_000, "\u6f22" * 500 + " ..."),
        ("half of a character: \ud800.", "half of a character: ?."),
    ],
)
def test_a_message_is_text_that_fits_into_the_trailers(message: str, told: str) -> None:
    assert to_status(RetinueError(message)).message == told


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_its_code_and_a_stable_reason(kind: type[RetinueError]) -> None:
    error = made(kind)
    status = to_status(error)
    assert code_pb2.Code.Name(status.code) == CODES[kind.__name__] == error.code.name  # type: ignore[arg-type]
    assert status.message == "what to do."
    info = ErrorInfo()
    assert detail(status, info)
    assert (info.domain, info.reason) == ("retinue", kind.reason)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", info.reason)
    assert grpc_code(error.code).name == CODES[kind.__name__]


def test_no_error_is_left_out() -> None:
    assert {kind.__name__ for kind in ERRORS} == CODES.keys()
    for name in CODES:
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("code", Code)
def test_codes_are_those_of_grpc(code: Code) -> None:
    assert code_pb2.Code.Value(code.name) == code.value
    assert grpc_code(code) is grpc.StatusCode[code.name]


def test_a_reason_may_be_more_exact_than_its_class() -> None:
    info = ErrorInfo()
    assert detail(to_status(errors.ImageError("empty.", reason="IMAGE_EMPTY")), info)
    assert info.reason == "IMAGE_EMPTY"
    # The class keeps its own.
    assert errors.ImageError("cut off.").reason == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize("seconds", [0.0, 0.05, 1.25, 3600.5])
def test_an_overload_says_when_to_come_back(seconds: float) -> None:
    retry = RetryInfo()
    assert detail(to_status(OverloadedError("full.", retry_after_seconds=seconds)), retry)
    assert retry.retry_delay.ToNanoseconds() == pytest.approx(seconds * 1e9, abs=1)


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if not issubclass(kind, OverloadedError)])
def test_only_an_overload_does(kind: type[RetinueError]) -> None:
    assert not detail(to_status(made(kind)), RetryInfo())
