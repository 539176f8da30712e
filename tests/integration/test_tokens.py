"""Bearer tokens over both protocols, in one process and in several."""

import hashlib
import http.client
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from retinue.inference import grpc_service_pb2 as inference
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import Connection, connected, flat, refused
from tests.integration.test_bad_start import told_why
from tests.metrics_page import wait_until
from tests.server_process import ServerProcess, running_server

from retinue_server.rpc.access import SCOPES
from retinue_server.rpc.methods import SERVICES

SECRETS = {name: f"secret-of-{name}-which-nobody-may-see" for name in ("infer", "manage", "observe", "slow")}
METHODS = {
    method.name: f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
}
# One path of HTTP for each method that has one.
PAGES = {
    "GET /": "/",
    "GET /metrics": "/metrics",
    "GET /v1/models": "ListModels",
    "GET /v1/models/colour-classifier": "GetModel",
    "POST /v1/models/colour-classifier:classify": "Classify",
    "POST /v1/models/colour-classifier:detect": "Detect",
    "POST /v1/models/colour-classifier:segment": "Segment",
    "GET /v2": "ServerMetadata",
    "GET /v2/health/live": "ServerLive",
    "GET /v2/health/ready": "ServerReady",
    "GET /v2/models/stats": "ModelStatistics",
    "GET /v2/models/colour-classifier": "ModelMetadata",
    "GET /v2/models/colour-classifier/ready": "ModelReady",
    "GET /v2/models/colour-classifier/config": "ModelConfig",
    "POST /v2/models/colour-classifier/infer": "ModelInfer",
    "GET /v2/models/colour-classifier/trace/setting": "TraceSetting",
    "POST /v2/repository/index": "RepositoryIndex",
    "POST /v2/repository/models/nobody/load": "RepositoryModelLoad",
    "POST /v2/repository/models/nobody/unload": "RepositoryModelUnload",
    "GET /v2/systemsharedmemory/status": "SystemSharedMemoryStatus",
    "POST /v2/systemsharedmemory/unregister": "SystemSharedMemoryUnregister",
    "POST /v2/systemsharedmemory/region/r/register": "SystemSharedMemoryRegister",
    "GET /v2/cudasharedmemory/status": "CudaSharedMemoryStatus",
    "POST /v2/cudasharedmemory/unregister": "CudaSharedMemoryUnregister",
    "POST /v2/cudasharedmemory/region/r/register": "CudaSharedMemoryRegister",
    "GET /v2/logging": "LogSettings",
}


def entry(name: str, scopes: Sequence[str], secret: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "scopes": list(scopes),
        **more,
    }


ENTRIES = [entry(name, [name], SECRETS[name]) for name in ("infer", "manage", "observe")] + [
    entry("slow", ["infer"], SECRETS["slow"], requests_per_second=0.02)
]


@dataclass(frozen=True)
class Served:
    process: ServerProcess
    tokens: Path

    def write(self, *entries: dict[str, Any]) -> None:
        """Replaces the file by one with these besides."""
        fresh = self.tokens.with_suffix(".new")
        fresh.write_text(json.dumps({"tokens": [*ENTRIES, *entries]}))
        fresh.chmod(0o600)
        fresh.rename(self.tokens)

    def ask(self, request: str, secret: str = "", body: bytes = b"{}") -> tuple[int, dict[str, str], str]:
        verb, path = request.split(" ")
        port = int(self.process.http_url.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        try:
            connection.request(verb, path, body if verb == "POST" else None, headers)
            reply = connection.getresponse()
            told = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, told, reply.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def served(
    request: pytest.FixtureRequest, colour_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    tokens.write_text(json.dumps({"tokens": ENTRIES}))
    tokens.chmod(0o600)
    arguments = ("--tokens", str(tokens), "--workers", str(request.param), "--log-level", "debug")
    with running_server(colour_models, *arguments) as process:
        yield Served(process, tokens)
        # Whatever was asked, no token has left a trace.
        everything = "\n".join(process.stderr_lines)
        assert not [secret for secret in SECRETS.values() if secret in everything]


@pytest.fixture(scope="module")
def connection(served: Served) -> Iterator[Connection]:
    with connected(served.process.grpc_address) as one:
        yield one


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),) if secret else ()


def code(connection: Connection, method: str, secret: str = "") -> str:
    """What becomes of an empty request."""
    call = connection.channel.unary_unary(METHODS[method])
    if method == "ModelStreamInfer":
        stream = connection.channel.stream_stream(METHODS[method])
        message = inference.ModelInferRequest(model_name="nobody").SerializeToString()
        try:
            reply = next(stream(iter([message]), timeout=30, metadata=bearer(secret)))
        except grpc.RpcError as error:
            return str(error.code().name)
        assert inference.ModelStreamInferResponse.FromString(reply).error_message
        return "answered"
    try:
        call(b"", timeout=30, metadata=bearer(secret))
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("scope", ["infer", "manage", "observe"])
def test_each_method_over_grpc_is_for_its_scopes(scope: str, connection: Connection) -> None:
    got = {method: code(connection, method, SECRETS[scope]) for method in METHODS}
    denied = {method for method, what in got.items() if what == "PERMISSION_DENIED"}
    # Whose answer is that, whoever asks.
    switched_off = {method for method in METHODS if method.endswith("Register")}
    assert denied - switched_off == {m for m in METHODS if scope not in SCOPES[m]} - switched_off
    assert "UNAUTHENTICATED" not in got.values()


def test_nothing_over_grpc_is_for_strangers_but_health(connection: Connection) -> None:
    for secret in ("", "unknown"):
        assert {code(connection, method, secret) for method in METHODS} == {"UNAUTHENTICATED"}
    assert connection.health.Check(health_pb2.HealthCheckRequest()).status == 1
    told = refused(lambda: connection.classify(flat(255, 0, 0), model="colour-classifier"))
    assert (told.code, told.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    unknown = connection.channel.unary_unary("/retinue.v1.VisionService/Nothing")
    with pytest.raises(grpc.RpcError) as raised:
        unknown(b"", timeout=30)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("scope", ["infer", "manage", "observe"])
def test_each_page_over_http_is_for_its_scopes(scope: str, served: Served) -> None:
    for request, method in PAGES.items():
        status, _, text = served.ask(request, SECRETS[scope])
        denied = status == 403 and json.loads(text)["reason"] == "SCOPE_MISSING"
        assert denied == (scope not in SCOPES[method]), (request, status, text)
        assert status != 401


def test_nothing_over_http_is_for_strangers_but_probes(served: Served) -> None:
    for secret in ("", "unknown"):
        for request in [*PAGES, "GET /nowhere"]:
            status, headers, text = served.ask(request, secret)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), request
            assert json.loads(text)["status"] == "UNAUTHENTICATED"
    assert [served.ask(f"GET {path}")[0] for path in ("/livez", "/readyz")] == [200, 200]


def test_reflection_is_for_who_observes(served: Served) -> None:
    with grpc.insecure_channel(served.process.grpc_address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        def services(secret: str) -> int:
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            reply = next(stub.ServerReflectionInfo(asked, timeout=30, metadata=bearer(secret)))
            return len(reply.list_services_response.service)

        assert services(SECRETS["observe"]) == 4
        for secret, wanted in (("", "UNAUTHENTICATED"), (SECRETS["infer"], "PERMISSION_DENIED")):
            with pytest.raises(grpc.RpcError) as raised:
                services(secret)
            assert raised.value.code().name == wanted


def classify(connection: Connection, secret: str) -> str:
    request = pb.ClassifyRequest(model="colour-classifier", images=[flat(255, 0, 0)])
    reply = connection.vision.Classify(request, timeout=30, metadata=bearer(secret))
    return str(reply.outcomes[0].result.classes[0].label)


def test_tokens_change_under_traffic_without_a_failed_call(served: Served, connection: Connection) -> None:
    old, new = "an-old-token", "a-new-token"
    served.write(entry("ann", ["infer"], old))
    assert classify(connection, old) == "red"
    assert code(connection, "Classify", new) == "UNAUTHENTICATED"
    with ThreadPoolExecutor(2) as callers:
        going = callers.map(classify, [connection] * 100, [old] * 100)
        served.write(entry("ann", ["infer"], old), entry("ann", ["infer"], new))
        wait_until(lambda: code(connection, "GetModel", new) != "UNAUTHENTICATED", "the new token")
        assert set(going) == {"red"}
    served.write(entry("ann", ["infer"], new))
    assert code(connection, "Classify", old) == "UNAUTHENTICATED"
    assert classify(connection, new) == "red"
    served.write()
    assert code(connection, "Classify", new) == "UNAUTHENTICATED"


def test_messages_of_a_stream_that_is_open_need_a_token_that_holds(
    served: Served, connection: Connection
) -> None:
    served.write(entry("ann", ["infer"], "for-a-while"))
    gone = False

    def messages() -> Iterator[inference.ModelInferRequest]:
        yield inference.ModelInferRequest(model_name="nobody", id="1")
        wait_until(lambda: gone, "the token to be gone")
        yield inference.ModelInferRequest(model_name="nobody", id="2")

    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(connection.channel)
    replies = stub.ModelStreamInfer(messages(), timeout=30, metadata=bearer("for-a-while"))
    assert "there is no model 'nobody'" in next(replies).error_message
    served.write()
    gone = True
    assert "needs a token" in next(replies).error_message


def test_a_token_that_asks_too_fast_is_told_when_to_come_back(served: Served, connection: Connection) -> None:
    def ask() -> None:
        connection.vision.ListModels(pb.ListModelsRequest(), timeout=30, metadata=bearer(SECRETS["slow"]))

    # One connection, so one front-end, whose share allows one at once.
    ask()
    told = refused(ask)
    assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "TOKEN_TOO_FAST")
    assert told.retry_after_seconds is not None
    assert told.retry_after_seconds > 1
    # The others are not its neighbours' business.
    assert classify(connection, SECRETS["infer"]) == "red"
    # Over HTTP it has the same limit, of which each front-end has its share.
    replies = [served.ask("GET /v1/models", SECRETS["slow"]) for _ in range(3)]
    status, headers, text = replies[-1]
    assert (status, json.loads(text)["reason"]) == (429, "TOKEN_TOO_FAST")
    assert int(headers["retry-after"]) > 1


def test_calls_are_counted_by_the_names_of_tokens_which_are_nowhere_shown(
    served: Served, connection: Connection
) -> None:
    classify(connection, SECRETS["infer"])
    status, _, page = served.ask("GET /metrics", SECRETS["observe"])
    assert status == 200
    assert 'retinue_token_requests_total{code="OK",token="infer"}' in page
    assert "secret-of" not in page
    for request in PAGES:
        assert "secret-of" not in served.ask(request, SECRETS["infer"])[2]


def test_a_server_does_not_start_with_tokens_that_do_not_hold(colour_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [entry("ann", ["infer", "root"], "x")]}))
    path.chmod(0o600)
    start = ("--models", str(colour_models), "--tokens", str(path))
    for workers in ("0", "1"):
        told = told_why(*start, "--workers", workers)
        assert f"--tokens '{path}': tokens.0.scopes.1: " in told
    path.chmod(0o644)
    assert "others may read or change" in told_why(*start)


def test_however_many_tokens_strangers_make_up_there_are_no_more_lines_of_metrics(
    served: Served, connection: Connection
) -> None:
    def lines() -> int:
        status, _, page = served.ask("GET /metrics", SECRETS["observe"])
        assert status == 200
        return sum(not line.startswith("#") for line in page.splitlines())

    def make_up(number: int) -> None:
        secret = f"made-up-{number}"
        assert code(connection, "Classify", secret) == "UNAUTHENTICATED"
        with pytest.raises(grpc.RpcError):
            connection.channel.unary_unary(f"/retinue.v1.VisionService/Method{number}")(
                b"", metadata=bearer(secret)
            )
        for request in ("GET /metrics", f"GET /{secret}", f"POST /v1/models/{secret}:classify"):
            assert served.ask(request, secret)[0] == 401

    make_up(0)
    before = lines()
    for number in range(1, 30):
        make_up(number)
    assert lines() == before
