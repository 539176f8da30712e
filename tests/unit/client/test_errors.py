import pickle
import socket

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2

import retinue_client
from retinue_client import (
    AuthenticationError,
    DeadlineExceededError,
    ImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestTooLargeError,
    ResponseError,
    RetinueError,
    Retries,
    ServerError,
    ServerUnreachableError,
    UnavailableError,
    WrongTaskError,
)

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequestError),
        (Code.NOT_FOUND, "MODEL_NOT_FOUND", ModelNotFoundError),
        (Code.FAILED_PRECONDITION, "WRONG_TASK", WrongTaskError),
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", OverloadedError),
        (Code.UNAVAILABLE, "DRAINING", UnavailableError),
        (Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED", DeadlineExceededError),
        (Code.UNAUTHENTICATED, "TOKEN_MISSING", AuthenticationError),
        (Code.PERMISSION_DENIED, "TOKEN_WRONG", AuthenticationError),
        (Code.INTERNAL, "ENGINE_FAILED", ServerError),
        (Code.DATA_LOSS, "SOMETHING_NEW", ServerError),
    ],
)
def test_each_status_of_the_server_has_its_error(ask, server, failure, code, reason, kind):
    server.service.failures.append(failure(code, "What happened and what to do.", reason))
    with pytest.raises(RetinueError) as caught:
        ask("classify", b"x")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.message) == (code, reason, "What happened and what to do.")
    assert str(error) == "What happened and what to do."
    assert error.retry_after_seconds is None
    assert isinstance(error.__cause__, grpc.RpcError)


def test_an_overloaded_server_says_when_to_come_back(ask, server, failure):
    server.service.failures.append(failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 1.25))
    with pytest.raises(OverloadedError) as caught:
        ask("detect", [b"x", b"y"])
    assert caught.value.retry_after_seconds == pytest.approx(1.25)
    assert caught.value.to_dict() == {
        "code": "RESOURCE_EXHAUSTED",
        "reason": "QUEUE_FULL",
        "message": "Full.",
        "retry_after_seconds": pytest.approx(1.25),
    }


@pytest.mark.parametrize(
    "details",
    [
        b"\xff no Status",
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
    ],
    ids=["no Status", "no ErrorInfo"],
)
def test_details_that_cannot_be_read_are_as_good_as_absent(ask, server, details):
    def refuse(_request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(Code.PERMISSION_DENIED, "Not for you.")

    server.service.on_request = refuse
    with pytest.raises(AuthenticationError) as caught:
        ask("classify", b"x")
    assert (caught.value.reason, caught.value.message) == ("PERMISSION_DENIED", "Not for you.")


def test_nobody_at_the_address_says_which_and_how_to_start_a_server(ask):
    with socket.socket() as bound:
        # Bound and not listening: connections are refused, and nobody else gets the port.
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        ask.address = f"127.0.0.1:{port}"
        with pytest.raises(ServerUnreachableError) as caught:
            ask("list_models")
    assert ask.address in caught.value.message
    assert "connection refused" in caught.value.message
    assert f"`retinue-server --models DIR --grpc-port {port}`" in caught.value.message
    assert caught.value.code is Code.UNAVAILABLE


def test_no_port_is_proposed_for_an_address_without_one(ask, tmp_path):
    ask.address = f"unix:{tmp_path}/none.sock"
    with pytest.raises(ServerUnreachableError, match="`retinue-server --models DIR`"):
        ask("list_models")


def test_an_unknown_host_is_named(ask):
    ask.address = "no-such-host.invalid:8001"
    with pytest.raises(ServerUnreachableError, match=r"no-such-host\.invalid:8001"):
        ask("classify", b"x", timeout_seconds=20)


def test_a_server_that_goes_away_during_a_call_is_a_lost_connection(ask, server, failure):
    server.service.failures.append(failure(Code.UNAVAILABLE, "Socket closed"))
    with pytest.raises(UnavailableError, match="lost during the call") as caught:
        ask("classify", b"x")
    assert caught.value.reason == "CONNECTION_LOST"


@pytest.mark.parametrize(
    ("said", "reason", "sent"),
    [
        ("Socket closed", "SERVER_UNREACHABLE", 2),
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "TLS_FAILED", 1),
        ("Ssl handshake failed: WRONG_VERSION_NUMBER", "TLS_FAILED", 1),
        ("Ssl handshake failed: TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLS_FAILED", 1),
    ],
)
def test_only_what_tls_itself_says_lasts(ask, server, failure, said, reason, sent):
    """Who closes connections at once may be about to end, and another one about to begin."""
    text = f"failed to connect to all addresses; last error: UNKNOWN: {said}"
    server.service.failures += [failure(Code.UNAVAILABLE, text)] * 2
    with pytest.raises(ServerUnreachableError, match=r"closes connections|certificate|TLS") as caught:
        ask("classify", b"x", client={"retries": Retries(max_attempts=2, first_delay_seconds=0.001)})
    assert caught.value.reason == reason
    assert len(server.service.requests) == sent


def test_a_server_that_ends_its_calls_has_ended_the_connection(ask, server, failure):
    """So a server does at the end of its grace; nobody here closed anything."""
    server.service.failures.append(failure(Code.CANCELLED, "CANCELLED"))
    with pytest.raises(UnavailableError, match=r"The server at .* ended the connection") as caught:
        ask("classify", b"x")
    assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "CONNECTION_LOST")
    assert "closed" not in caught.value.message


def test_a_request_over_the_message_limit_is_told_from_a_full_queue(ask):
    large = b"x" * 600_000
    with pytest.raises(RequestTooLargeError, match="max_request_bytes") as caught:
        ask("classify", [large, large])
    assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")


def test_a_request_that_the_server_finds_too_large_fails_alone_where_it_is_of_one_image(ask, server, failure):
    def small_only(request, context):
        if sum(len(image.encoded) for image in request.images) > 1000:
            failure(Code.INVALID_ARGUMENT, "Too many bytes.", "REQUEST_TOO_LARGE").abort(context)

    server.service.on_request = small_only
    with pytest.raises(RequestTooLargeError, match="Too many bytes") as caught:
        ask("classify", [b"x" * 600, b"x" * 600])
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    outcomes = ask("classify", [b"a", b"x" * 2000, b"c"], client={"max_request_images": 1})
    assert [getattr(outcome, "reason", None) for outcome in outcomes] == [None, "REQUEST_TOO_LARGE", None]


def test_one_image_over_the_message_limit_fails_alone(ask):
    outcomes = ask("classify", [b"a", b"x" * 2_000_000, b"c"], client={"max_request_bytes": 1000})
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Classification",
        "ImageError",
        "Classification",
    ]
    assert outcomes[1].reason == "MESSAGE_TOO_LARGE"
    with pytest.raises(ImageError, match="2000000 bytes"):
        ask("classify", b"x" * 2_000_000)


def test_a_server_of_another_kind_is_recognised(ask, server, failure):
    server.service.failures.append(failure(Code.UNIMPLEMENTED, "unknown service"))
    with pytest.raises(ServerError, match=r"does not have this call"):
        ask("classify", b"x")


def test_an_answer_that_does_not_fit_the_question_is_an_error(ask, server):
    server.service.alter_response = lambda response: response.outcomes.pop()
    with pytest.raises(ResponseError, match="0 outcomes for 1"):
        ask("classify", b"x")
    server.service.alter_response = lambda response: response.outcomes[0].ClearField("result")
    with pytest.raises(ResponseError, match="neither"):
        ask("classify", b"x")


def test_errors_survive_pickling():
    error = OverloadedError("Full.", reason="QUEUE_FULL", retry_after_seconds=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert again.to_dict() == error.to_dict()
    image = pickle.loads(pickle.dumps(ImageError("Broken.", source="a.jpg", reason="IMAGE_UNDECODABLE")))
    assert (str(image), repr(image)) == ("a.jpg: Broken.", "ImageError(IMAGE_UNDECODABLE: a.jpg: Broken.)")


def test_the_tree_in_the_docstring_is_the_tree():
    from retinue_client import _errors

    tree = (_errors.__doc__ or "").partition("An `ImageError`")[0]
    branches = tree.splitlines()[3:-1]
    assert len(branches) == len([name for name in retinue_client.__all__ if name.endswith("Error")]) - 1
    for line in branches:  # each on a line of its own, short enough that nothing wraps it
        assert line[0] in "├│└ "
        assert len(line) < 100
    drawn = [word for word in tree.split() if word.endswith("Error")]
    exported = [name for name in retinue_client.__all__ if name.endswith("Error")]
    assert sorted(drawn) == sorted(exported)
    for line in tree.splitlines():
        words = line.split()
        name = next((word for word in words if word.endswith("Error")), "RetinueError")
        if name != "RetinueError":
            assert getattr(retinue_client, name).code.name in line
