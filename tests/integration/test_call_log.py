"""What the log says of calls, and what it never says."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from retinue.inference import grpc_service_pb2 as inference
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, odd_bundles
from tests.calls import TIMEOUT_SECONDS, Connection, connected, encoded, flat
from tests.metrics_page import wait_until
from tests.server_process import ServerProcess, running_server

TOKEN, WRONG_TOKEN, COLLECTOR_KEY = (f"secret-{name}-nobody-may-see" for name in ("token", "guess", "key"))
# Whatever a caller sends has this somewhere.
MARK = "mark-of-a-caller"
SECRETS = [TOKEN, WRONG_TOKEN, COLLECTOR_KEY, MARK]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-00"


@dataclass(frozen=True)
class Logged:
    """A server that logs all calls of callers with a token."""

    server: ServerProcess
    connection: Connection

    def line(self, request_id: str, event: str = "call") -> dict[str, Any]:
        """The event of a call."""

        def found() -> list[dict[str, Any]]:
            return [
                one
                for one in self.server.events
                if one["event"] == event and one.get("request_id") == request_id
            ]

        wait_until(lambda: bool(found()), f"the log to have {request_id}")
        (line,) = found()
        return line


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two front-ends"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    models = tmp_path_factory.mktemp("models")
    colour_bundles.classifier(models)
    odd_bundles.failing_classifier(models)
    tokens = models.parent / f"tokens-{request.param}.json"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    scopes = ["infer", "observe", "manage"]
    tokens.write_text(json.dumps({"tokens": [{"name": "ann", "sha256": digest, "scopes": scopes}]}))
    tokens.chmod(0o600)
    with (
        running_server(
            models,
            *("--tokens", str(tokens), "--workers", str(request.param)),
            *("--access-log-share", "1", "--log-level", "debug"),
            # Nobody is there, so that this is in the log, too.
            *("--trace-endpoint", "http://127.0.0.1:1", "--trace-sample-share", "1"),
            environment={
                "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={COLLECTOR_KEY}",
                "OTEL_BSP_SCHEDULE_DELAY": "20",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
            },
        ) as server,
        connected(server.grpc_address) as connection,
    ):
        yield Logged(server, connection)


def classify(
    logged: Logged, request_id: str, *images: image_pb2.Image, model: str = "colour-classifier"
) -> Any:
    metadata = (("authorization", f"Bearer {TOKEN}"), ("x-request-id", request_id), ("traceparent", PARENT))
    request = pb.ClassifyRequest(model=model, images=images)
    return logged.connection.vision.Classify(request, timeout=TIMEOUT_SECONDS, metadata=metadata)


def test_a_call_is_one_event(logged: Logged) -> None:
    images = [flat(255, 0, 0), encoded(b"no image")]
    classify(logged, "one-event", *images)
    line = logged.line("one-event")
    assert line.pop("seconds") > 0
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    del line["timestamp"]
    assert line == {
        "event": "call",
        "level": "info",
        "logger": "retinue_server.rpc.call_records",
        "method": "Classify",
        "model": "colour-classifier",
        "version": "1",
        "code": "OK",
        "images": 2,
        "request_bytes": pb.ClassifyRequest(model="colour-classifier", images=images).ByteSize(),
        "request_id": "one-event",
        "trace_id": TRACE,
        "token": "ann",
    }


def test_a_call_over_http_is_one_event_with_the_same_id(logged: Logged) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    reply = httpx.get(f"{logged.server.http_url}/v1/models/colour-classifier", headers=headers)
    assert reply.status_code == 200
    line = logged.line(reply.headers["x-request-id"])
    assert (line["method"], line["model"], line["token"]) == ("GetModel", "colour-classifier", "ann")


def test_a_batch_that_fails_names_its_calls_and_they_name_it(logged: Logged) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        classify(logged, "it-fails", flat(255), model="failing-classifier")
    line = logged.line("it-fails", "call_with_failures")
    assert (line["level"], line["code"], line["trace_id"]) == ("error", "INTERNAL", TRACE)
    assert line["failures"] == [raised.value.details()]
    (batch,) = [one for one in logged.server.events if "it-fails" in one.get("request_ids", ())]
    assert batch["event"] == "batch_failed"
    assert batch["error_id"] in raised.value.details()


def test_nothing_of_what_callers_send_is_in_the_log(logged: Logged) -> None:
    url, stub = logged.server.http_url, logged.connection.vision
    tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(logged.connection.channel)
    good, wrong = ({"authorization": f"Bearer {token}"} for token in (TOKEN, WRONG_TOKEN))
    beside = (
        ("authorization", f"Bearer {TOKEN}"),
        ("x-request-id", f"not fit to print {MARK}"),
        ("x-else", MARK),
        ("traceparent", MARK),
        ("tracestate", f"a={MARK}"),
        ("some-bin", MARK.encode()),
    )
    kept = f"00-{TRACE}-b7ad6b7169203331-01"
    in_a_trace = (
        *(beside[0], ("traceparent", kept), ("tracestate", f"no state of {MARK}")),
        ("tracestate", f"{MARK}={MARK}"),
    )
    pixels = (MARK.encode() * 12)[: 8 * 8 * 3]
    images = [
        encoded(MARK.encode()),
        encoded(b"\x89PNG\r\n\x1a\n" + MARK.encode()),
        image_pb2.Image(raw=image_pb2.RawImage(data=pixels, height=8, width=8)),
        # The model fails on this one.
        flat(255),
    ]
    forged = f"{MARK}\n\x1b[2J2026-01-01 [error] forged"
    for model in ("colour-classifier", "failing-classifier", forged):
        for one in images:
            _try(stub.Classify, pb.ClassifyRequest(model=model, images=[one]), beside)
            _try(stub.Classify, pb.ClassifyRequest(model=model, images=[one]), in_a_trace)
        _try(stub.Classify, pb.ClassifyRequest(model=model, images=images, top_k=1), beside[1:])
        tensor = inference.ModelInferRequest.InferInputTensor(name=MARK, datatype=MARK, shape=[1])
        request = inference.ModelInferRequest(
            model_name=model, id=forged, inputs=[tensor], raw_input_contents=[MARK.encode()]
        )
        _try(tensors.ModelInfer, request, beside)
        load = inference.RepositoryModelLoadRequest(model_name=model)
        _try(tensors.RepositoryModelLoad, load, beside)
    for headers in (good, wrong):
        for path in (
            f"/{MARK}%0aforged",
            f"/v1/models/{MARK}%0a:classify?{MARK}={MARK}",
            "/v2/models/x/infer",
        ):
            told = {**headers, "x-else": MARK, "x-request-id": f"a {MARK}", "traceparent": MARK}
            httpx.post(url + path, content=MARK.encode(), headers=told)
            httpx.get(url + path, headers=told)
    _try(stub.Classify, pb.ClassifyRequest(), (("authorization", f"Bearer {WRONG_TOKEN}"),))
    # What was asked before it is in the log by now, if it is at all.
    classify(logged, "the-last", flat(0, 255, 0))
    logged.line("the-last")
    logged.server.wait_for_event("traces_not_sent", 30)

    everything = "\n".join(logged.server.stderr_lines)
    assert '"call_with_failures"' in everything
    assert [secret for secret in SECRETS if secret in everything] == []
    # Each line is an event of the server's own.
    assert [line for line in logged.server.stderr_lines if not line.startswith("{")] == []


def _try(method: Any, request: Any, metadata: Any) -> None:
    with suppress(grpc.RpcError):
        method(request, timeout=TIMEOUT_SECONDS, metadata=metadata)


def test_by_default_calls_are_not_in_the_log(server: ServerProcess) -> None:
    assert httpx.get(f"{server.http_url}/v1/models").status_code == 200
    assert [event for event in server.events if event["event"] == "call"] == []
