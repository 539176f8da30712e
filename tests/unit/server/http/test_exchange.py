"""A request over HTTP is a call like gRPC's: the same limits, errors and metrics, and nothing of it stays behind."""

import asyncio
import gzip
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from retinue.inference import grpc_service_pb2 as pb
from retinue.v1 import vision_service_pb2, vision_service_pb2_grpc
from starlette.requests import Request
from structlog.testing import capture_logs
from tests.unit.server.http.served_app import Caller, ServedApp
from tests.unit.server.served import served_model

from retinue_server import errors
from retinue_server.catalog import ServedModel
from retinue_server.http import exchange
from retinue_server.rpc.budget import ByteBudget, Holding
from retinue_server.rpc.calls import Call, current_call
from retinue_server.rpc.relay import Relay

METADATA = "/v2/models/a-model"


@pytest.fixture
def served() -> ServedApp:
    return ServedApp(max_request_bytes=2000, max_bytes_in_flight=3000)


def hold(served: ServedApp, model: ServedModel, method: str = "RepositoryModelLoad") -> asyncio.Event:
    """Has a method take a model and wait for the event."""
    gate = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        current_call.get().name_model(model)
        await gate.wait()
        return pb.RepositoryModelLoadResponse()

    served.methods[method] = answer
    return gate


LOAD = "/v2/repository/models/a-model/load"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequestError("no."), 400),
        (errors.ImageError("no."), 400),
        (errors.ModelControlError("no."), 400),
        (errors.WrongTaskError("no."), 400),
        (errors.PermissionDeniedError("no."), 403),
        (errors.ModelNotFoundError("no."), 404),
        (errors.OverloadedError("no.", retry_after_seconds=0.1), 429),
        (errors.EngineError("no."), 500),
        (errors.UnsupportedError("no."), 501),
        (errors.UnavailableError("no."), 503),
        (errors.DeadlineExpiredError("no."), 504),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_each_error_has_its_status_and_says_why_as_json(
    error: errors.RetinueError, status: int, served: ServedApp
) -> None:
    served.answer("ModelMetadata", error)
    told = await served.ask("GET", METADATA)
    assert told.status_code == status
    assert told.headers["content-type"] == "application/json"
    assert told.json() == {"error": "no.", "status": error.code.name, "reason": error.reason}
    assert served.counted() == [("ModelMetadata", "", error.code.name, 1)]


def test_every_code_has_a_status() -> None:
    assert all(400 <= exchange.status_of(code) < 600 for code in errors.Code)


@pytest.mark.parametrize(("seconds", "told"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (0.0, "1"), (40.5, "41")])
async def test_when_to_retry_is_in_whole_seconds(seconds: float, told: str, served: ServedApp) -> None:
    served.answer("ModelMetadata", errors.OverloadedError("full.", retry_after_seconds=seconds))
    assert (await served.ask("GET", METADATA)).headers["retry-after"] == told
    served.answer("ModelMetadata", errors.UnavailableError("loading."))
    assert "retry-after" not in (await served.ask("GET", METADATA)).headers


async def test_any_other_error_is_internal_and_shows_nothing(served: ServedApp) -> None:
    served.answer("ModelMetadata", KeyError("a secret of /etc/passwd"))
    with capture_logs() as logged:
        told = await served.ask("GET", METADATA)
    assert told.status_code == 500
    assert told.json()["status"] == "INTERNAL"
    assert "secret" not in told.text
    assert logged[0]["request_id"] in told.json()["error"]
    assert served.counted() == [("ModelMetadata", "", "INTERNAL", 1)]


async def test_text_that_no_encoding_has_is_told_all_the_same(served: ServedApp) -> None:
    told = await served.ask("POST", "/v1/models/%ff%00:classify?top_k=%ed%a0%80", content=b"x")
    assert (told.status_code, told.json()["reason"]) == (400, "OPTION_INVALID")


@pytest.mark.parametrize(
    "origin", ["https://elsewhere", "null", "", "http://", "http://server.elsewhere", "http://[", "server"]
)
async def test_pages_of_other_origins_are_refused(origin: str, served: ServedApp) -> None:
    served.answer("RepositoryModelLoad", AssertionError("never called"))
    told = await served.ask("POST", LOAD, headers={"origin": origin})
    assert (told.status_code, told.json()["reason"]) == (403, "CROSS_ORIGIN")
    assert served.counted() == [("RepositoryModelLoad", "", "PERMISSION_DENIED", 1)]


async def test_pages_of_this_server_are_answered(served: ServedApp) -> None:
    served.answer("RepositoryModelLoad", pb.RepositoryModelLoadResponse())
    for origin in ("http://server", "https://server", "HTTP://SERVER"):
        assert (await served.ask("POST", LOAD, headers={"origin": origin})).status_code == 200
    for host, status in (("server:8080", 403), ("", 403)):
        headers = {"origin": "http://server", "host": host}
        assert (await served.ask("POST", LOAD, headers=headers)).status_code == status


async def test_an_answer_is_counted_with_its_model_which_is_free_then(served: ServedApp) -> None:
    model = served_model("a-model", 3)
    gate = hold(served, model)
    call = Caller(served.app, LOAD)
    await call.sends(b"")
    assert len(model.leases) == 1
    gate.set()
    await call.call
    assert (call.status, call.body) == (200, b"{}")
    assert len(model.leases) == 0
    assert served.counted() == [("RepositoryModelLoad", "a-model", "OK", 1)]


async def test_a_caller_who_leaves_cancels_the_work_and_leaves_nothing_behind(served: ServedApp) -> None:
    model = served_model("a-model")
    hold(served, model)
    for _ in range(2):
        call = Caller(served.app, LOAD)
        # Two of these have no room together.
        await call.sends(b'{"x": "%s"}' % bytes(1700).replace(b"\0", b"x"))
        assert len(model.leases) == 1
        await call.leaves()
        assert len(model.leases) == 0
    assert served.counted() == [("RepositoryModelLoad", "a-model", "CANCELLED", 2)]


async def test_a_caller_who_leaves_while_sending_leaves_nothing_behind(served: ServedApp) -> None:
    for _ in range(2):
        call = Caller(served.app, LOAD)
        await call.sends(bytes(1700), more=True)
        await call.leaves()
    assert served.counted() == [("RepositoryModelLoad", "", "CANCELLED", 2)]


async def test_a_refused_call_leaves_nothing_behind(served: ServedApp) -> None:
    model = served_model("a-model")

    async def refuse(request: Any, context: Any) -> Any:
        current_call.get().name_model(model)
        raise errors.UnavailableError("no.")

    served.methods["RepositoryModelLoad"] = refuse
    for _ in range(3):
        call = Caller(served.app, LOAD)
        await call.sends(b'{"x": "%s"}' % (b"x" * 1700))
        await call.call
        assert call.status == 503
    assert len(model.leases) == 0


async def test_requests_that_have_no_room_beside_others_are_refused(served: ServedApp) -> None:
    gate = hold(served, served_model("a-model"))
    first = Caller(served.app, LOAD)
    await first.sends(b'{"x": "%s"}' % (b"x" * 1700))
    second = await served.ask("POST", LOAD, content=b'{"x": "%s"}' % (b"x" * 1700))
    assert (second.status_code, second.json()["reason"]) == (429, "TOO_MANY_BYTES_IN_FLIGHT")
    gate.set()
    await first.call
    assert (await served.ask("POST", LOAD, content=b"{}")).status_code == 200


async def test_a_reply_takes_room_until_it_is_read(served: ServedApp) -> None:
    served.answer("TraceSetting", _settings("x" * 1700))
    unread = Caller(served.app, "/v2/trace/setting")
    unread.reads.clear()
    await unread.sends(b"{}")
    refused = await served.ask("POST", "/v2/trace/setting", content=b"{}")
    assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_BYTES_IN_FLIGHT")
    unread.reads.set()
    await unread.call
    assert (await served.ask("POST", "/v2/trace/setting", content=b"{}")).status_code == 200


def _settings(value: str) -> pb.TraceSettingResponse:
    reply = pb.TraceSettingResponse()
    reply.settings["a"].value.append(value)
    return reply


async def test_a_large_reply_is_handed_over_in_pieces(
    served: ServedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_PIECE_BYTES", 100)
    served.answer("TraceSetting", _settings("x" * 1700))
    told = await served.ask("GET", "/v2/trace/setting", headers={"accept-encoding": "identity"})
    assert told.json() == {"a": {"value": ["x" * 1700]}}
    assert int(told.headers["content-length"]) == len(told.content)


async def test_large_replies_are_packed_for_those_who_take_it() -> None:
    served = ServedApp()
    served.answer("TraceSetting", _settings("x" * 300_000))
    packed = await served.ask("GET", "/v2/trace/setting", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = await served.ask("GET", "/v2/trace/setting", headers={"accept-encoding": "deflate, br"})
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json() == {"a": {"value": ["x" * 300_000]}}
    served.answer("TraceSetting", _settings("x" * 3000))
    small = await served.ask("GET", "/v2/trace/setting", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


async def test_more_calls_than_may_run_at_once_are_refused() -> None:
    served = ServedApp(max_concurrent_requests=1)
    gate = hold(served, served_model("a-model"))
    first = Caller(served.app, LOAD)
    await first.sends(b"")
    told = await served.ask("POST", LOAD)
    assert (told.status_code, told.json()["reason"]) == (429, "TOO_MANY_CALLS")
    gate.set()
    await first.call
    assert (await served.ask("POST", LOAD)).status_code == 200


async def test_a_request_over_the_limit_is_refused_packed_or_not(served: ServedApp) -> None:
    told = await served.ask("POST", LOAD, content=bytes(2001))
    assert (told.status_code, told.json()["reason"]) == (400, "REQUEST_TOO_LARGE")
    bomb = gzip.compress(bytes(100_000))
    told = await served.ask("POST", LOAD, content=bomb, headers={"content-encoding": "gzip"})
    assert (told.status_code, told.json()["reason"]) == (400, "REQUEST_TOO_LARGE")


async def test_callers_of_different_connections_are_told_apart(served: ServedApp) -> None:
    peers = []

    async def note(request: Any, context: Any) -> Any:
        peers.append((context.peer(), context.time_remaining()))
        return vision_service_pb2.ListModelsResponse()

    served.methods["ListModels"] = note
    await served.ask("GET", "/v1/models")
    assert peers == [("http:127.0.0.1:123", None)]


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v2/models/a/b/c", 404), ("PUT", "/v2", 405), ("POST", "/v2", 405)],
)
async def test_what_is_not_there_is_told_as_json(
    verb: str, path: str, status: int, served: ServedApp
) -> None:
    told = await served.ask(verb, path)
    assert (told.status_code, told.json()["reason"]) == (status, "NO_ENDPOINT")
    assert served.counted() == []


@pytest.mark.parametrize(
    ("verb", "path", "status", "told"),
    [
        ("GET", "/v1/models/m:classify", 405, "there is no GET /v1/models/m:classify here; use POST."),
        ("GET", "/v1/models/m/versions/2:detect", 405, "use POST."),
        ("POST", "/v1/models/m", 405, "use GET."),
        (
            "POST",
            "/v1/models/m:clasify",
            404,
            "models have :classify, :detect and :segment, as in POST /v1/models/",
        ),
        ("GET", "/v1/models/m:clasify", 404, ":classify, :detect and :segment"),
        ("POST", "/v1/models/m/classify", 404, ":classify, :detect and :segment"),
        (
            "GET",
            "/v2/models",
            404,
            "there are /v2/models/NAME and, of all models, POST /v2/repository/index.",
        ),
        ("GET", "/v2/nothing", 404, "GET / lists what is."),
    ],
)
async def test_what_is_not_there_is_told_with_what_is(
    verb: str, path: str, status: int, told: str, served: ServedApp
) -> None:
    refused = await served.ask(verb, path)
    assert (refused.status_code, refused.json()["reason"]) == (status, "NO_ENDPOINT")
    assert told in refused.json()["error"]


async def test_the_endpoints_are_listed_by_their_patterns(served: ServedApp) -> None:
    listed = (await served.ask("GET", "/")).json()["endpoints"]
    assert listed[:3] == ["/metrics", "/livez", "/readyz"]
    assert {
        "/v1/models/{model}:classify",
        "/v1/models/{model}/versions/{version}",
        "/v2/models/{name}/infer",
    } <= set(listed)
    assert len(listed) == len(set(listed))


def beside(*headers: tuple[str, str], max_metadata_bytes: int = 16_384) -> list[tuple[str, str]]:
    """What a servicer finds beside a request with these headers."""
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    request = Request({"type": "http", "headers": sent})
    return exchange.HttpContext(request, max_metadata_bytes).invocation_metadata()


@pytest.mark.parametrize(
    "header",
    [
        *(
            ("host", "x"),
            ("content-length", "1"),
            ("te", "trailers"),
            ("grpc-timeout", "1S"),
            ("sec-fetch-mode", "x"),
        ),
        *(("user-agent", "x"), ("accept", "x"), ("inference-header-content-length", "1")),
        *(
            ("user-bin", "x"),
            ("user~id", "x"),
            ("user-id", "\xe9"),
            ("user-id", "a\tb"),
            ("user-id", "x" * 6200),
        ),
    ],
)
def test_headers_that_grpc_could_not_bring_are_not_beside_a_request(header: tuple[str, str]) -> None:
    assert beside(header, ("tenant", "a")) == [("tenant", "a")]


def test_who_calls_is_beside_a_request_whatever_else_there_is() -> None:
    many = [(f"cookie-{number}", "x" * 40) for number in range(500)]
    assert beside(*many, ("authorization", "Bearer a"))[0] == ("authorization", "Bearer a")


async def test_what_is_beside_a_request_is_taken_by_grpc_however_many_headers_there_are() -> None:
    found = beside(*((f"cookie-{number}", "x" * 40) for number in range(500)), ("user-id", "ann"))
    assert 50 < len(found) < 500
    large = beside(("cookie", "x" * 7000), ("user-id", "ann"), ("filler", "x" * 6000))
    assert large == [("user-id", "ann"), ("filler", "x" * 6000)]
    server = grpc.aio.server()
    servicer = vision_service_pb2_grpc.VisionServiceServicer()
    vision_service_pb2_grpc.add_VisionServiceServicer_to_server(servicer, server)
    relay = Relay([f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"], streams=16)
    await server.start()
    token = current_call.set(Call(Holding(ByteBudget(1))))
    for entries in (found, large):
        context: Any = SimpleNamespace(
            invocation_metadata=lambda: entries,  # noqa: B023
            time_remaining=lambda: None,
            peer=lambda: "http:10.0.0.1:50000",
        )
        # That of a method which nobody has written: it has come there.
        with pytest.raises(errors.UnsupportedError):
            await relay.methods["GetModel"](vision_service_pb2.GetModelRequest(), context)
    current_call.reset(token)
    await relay.close()
    await server.stop(0)


def test_what_front_ends_are_set_not_to_take_is_not_beside_a_request() -> None:
    many = [(f"cookie-{number}", "x" * 40) for number in range(500)]
    taken = beside(*many, max_metadata_bytes=1024)
    assert 0 < sum(len(name) + len(value) + 32 for name, value in taken) <= 1024 - 768
