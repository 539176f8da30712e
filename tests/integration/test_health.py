"""Health over gRPC and HTTP, and reflection."""

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.calls import Connection
from tests.server_process import ServerProcess

_SERVICE = "retinue.v1.VisionService"
_SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "service",
    [
        "",
        _SERVICE,
        "inference.GRPCInferenceService",
        "colour-classifier",
        "colour-detector",
        "colour-segmenter",
    ],
)
def test_the_server_its_service_and_each_model_are_healthy(service: str, colour: Connection) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert colour.health.Check(request).status == _SERVING
    watch = colour.health.Watch(request)
    assert next(watch).status == _SERVING
    watch.cancel()


def test_the_health_of_what_is_not_there_is_unknown(colour: Connection) -> None:
    request = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.RpcError) as raised:
        colour.health.Check(request)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = colour.health.Watch(request)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize(("path", "text"), [("/livez", "alive\n"), ("/readyz", "ready\n")])
def test_http_says_that_the_server_lives_and_is_ready(
    path: str, text: str, colour_server: ServerProcess
) -> None:
    response = httpx.get(f"{colour_server.http_url}{path}")
    assert (response.status_code, response.text) == (200, text)


def test_http_names_its_endpoints_and_knows_no_others(colour_server: ServerProcess) -> None:
    index = httpx.get(colour_server.http_url).json()
    assert index["name"] == "retinue"
    for path in [path for path in index["endpoints"] if "{" not in path and not path.startswith("/v2/")]:
        assert httpx.get(f"{colour_server.http_url}{path}").status_code == 200
    assert httpx.get(f"{colour_server.http_url}/etc/passwd").status_code == 404
    assert httpx.post(f"{colour_server.http_url}/metrics").status_code == 405


def _reflected(
    connection: Connection, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(connection.channel)
    (response,) = stub.ServerReflectionInfo(iter([request]))
    return response


def test_reflection_lists_the_services(colour: Connection) -> None:
    response = _reflected(colour, reflection_pb2.ServerReflectionRequest(list_services=""))
    assert {service.name for service in response.list_services_response.service} == {
        _SERVICE,
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_reflection_describes_the_vision_service(colour: Connection) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=_SERVICE)
    response = _reflected(colour, request)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in response.file_descriptor_response.file_descriptor_proto
    ]
    services = {service.name: service for file in files for service in file.service}
    methods = {method.name for method in services["VisionService"].method}
    assert methods == {"Classify", "Detect", "Segment", "ListModels", "GetModel"}


@pytest.mark.parametrize(
    "symbol", [f"{_SERVICE}.Classify", "retinue.v1.ClassScore.label", "retinue.v1.Priority"]
)
def test_reflection_finds_whatever_has_a_name(colour: Connection, symbol: str) -> None:
    response = _reflected(colour, reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
    assert response.HasField("file_descriptor_response")


def test_reflection_says_what_it_does_not_know(colour: Connection) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{_SERVICE}.Nothing")
    assert _reflected(colour, request).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_model_is_asked_with_nothing_but_reflection_and_json(colour: Connection) -> None:
    """As grpcurl does: it knows no message before it asks."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(colour.channel))
    method = pool.FindServiceByName(_SERVICE).methods_by_name["Classify"]
    request, answer = (GetMessageClass(kind) for kind in (method.input_type, method.output_type))
    asked = {"model": "colour-classifier", "images": [{"raw": {"data": "/wAA", "width": 1, "height": 1}}]}
    call = colour.channel.unary_unary(
        f"/{_SERVICE}/Classify",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    response = json_format.MessageToDict(call(json_format.ParseDict(asked, request())))
    assert response["outcomes"][0]["result"]["classes"][0]["label"] == "red"
