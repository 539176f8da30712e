"""Each endpoint of the Open Inference Protocol is one of its methods, and says what Triton's says in the same place."""

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.http.served_app import ServedApp

from retinue_server.errors import InvalidRequestError, ModelNotFoundError, RetinueError, UnavailableError

M, V = "/v2/models/m", "/v2/models/m/versions/3"
SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"


@pytest.fixture
def served() -> ServedApp:
    return ServedApp()


@pytest.mark.parametrize(
    ("verb", "path", "method", "expected"),
    [
        ("GET", "/v2", "ServerMetadata", pb.ServerMetadataRequest()),
        ("GET", "/v2/health/live", "ServerLive", pb.ServerLiveRequest()),
        ("GET", "/v2/health/ready", "ServerReady", pb.ServerReadyRequest()),
        ("GET", f"{M}/ready", "ModelReady", pb.ModelReadyRequest(name="m")),
        ("GET", f"{V}/ready", "ModelReady", pb.ModelReadyRequest(name="m", version="3")),
        ("GET", M, "ModelMetadata", pb.ModelMetadataRequest(name="m")),
        ("GET", V, "ModelMetadata", pb.ModelMetadataRequest(name="m", version="3")),
        ("GET", f"{M}/config", "ModelConfig", pb.ModelConfigRequest(name="m")),
        ("GET", f"{V}/config", "ModelConfig", pb.ModelConfigRequest(name="m", version="3")),
        ("GET", "/v2/models/stats", "ModelStatistics", pb.ModelStatisticsRequest()),
        ("GET", f"{M}/stats", "ModelStatistics", pb.ModelStatisticsRequest(name="m")),
        ("GET", f"{V}/stats", "ModelStatistics", pb.ModelStatisticsRequest(name="m", version="3")),
        ("POST", "/v2/repository/index", "RepositoryIndex", pb.RepositoryIndexRequest()),
        (
            "POST",
            "/v2/repository/models/m/load",
            "RepositoryModelLoad",
            pb.RepositoryModelLoadRequest(model_name="m"),
        ),
        (
            "POST",
            "/v2/repository/models/m/unload",
            "RepositoryModelUnload",
            pb.RepositoryModelUnloadRequest(model_name="m"),
        ),
        ("GET", f"{SYSTEM}/status", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
        (
            "GET",
            f"{SYSTEM}/region/r/status",
            "SystemSharedMemoryStatus",
            pb.SystemSharedMemoryStatusRequest(name="r"),
        ),
        (
            "POST",
            f"{SYSTEM}/unregister",
            "SystemSharedMemoryUnregister",
            pb.SystemSharedMemoryUnregisterRequest(),
        ),
        (
            "POST",
            f"{SYSTEM}/region/r/unregister",
            "SystemSharedMemoryUnregister",
            pb.SystemSharedMemoryUnregisterRequest(name="r"),
        ),
        ("GET", f"{CUDA}/status", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        (
            "POST",
            f"{CUDA}/region/r/register",
            "CudaSharedMemoryRegister",
            pb.CudaSharedMemoryRegisterRequest(name="r"),
        ),
        (
            "POST",
            f"{CUDA}/region/r/unregister",
            "CudaSharedMemoryUnregister",
            pb.CudaSharedMemoryUnregisterRequest(name="r"),
        ),
        ("GET", f"{M}/trace/setting", "TraceSetting", pb.TraceSettingRequest()),
        ("GET", "/v2/trace/setting", "TraceSetting", pb.TraceSettingRequest()),
        ("POST", "/v2/trace/setting", "TraceSetting", pb.TraceSettingRequest()),
        ("GET", "/v2/logging", "LogSettings", pb.LogSettingsRequest()),
        ("POST", "/v2/logging", "LogSettings", pb.LogSettingsRequest()),
    ],
)
async def test_each_endpoint_is_its_method(
    verb: str, path: str, method: str, expected: Any, served: ServedApp
) -> None:
    served.answer(method, UnavailableError("asked."))
    told = await served.ask(verb, path)
    assert (told.status_code, told.json()["error"]) == (503, "asked.")
    if method == "TraceSetting" and "models" in path:
        expected.model_name = served.asked[0].model_name
    assert served.asked == [expected]
    assert served.counted() == [(method, "", "UNAVAILABLE", 1)]


@pytest.mark.parametrize(
    ("path", "method", "reply"),
    [
        ("/v2/health/live", "ServerLive", lambda yes: pb.ServerLiveResponse(live=yes)),
        ("/v2/health/ready", "ServerReady", lambda yes: pb.ServerReadyResponse(ready=yes)),
        (f"{M}/ready", "ModelReady", lambda yes: pb.ModelReadyResponse(ready=yes)),
    ],
)
async def test_health_is_a_status_without_a_body(
    path: str, method: str, reply: Any, served: ServedApp
) -> None:
    for yes, status in ((True, 200), (False, 503)):
        served.answer(method, reply(yes))
        told = await served.ask("GET", path)
        assert (told.status_code, told.content) == (status, b"")


@pytest.mark.parametrize(
    ("verb", "path", "method", "reply", "expected"),
    [
        (
            *("GET", "/v2", "ServerMetadata"),
            pb.ServerMetadataResponse(name="n", version="1", extensions=["e"]),
            {"name": "n", "version": "1", "extensions": ["e"]},
        ),
        (
            *("GET", M, "ModelMetadata"),
            pb.ModelMetadataResponse(
                name="m",
                versions=["1"],
                platform="p",
                inputs=[{"name": "i", "datatype": "FP32", "shape": [-1]}],
            ),
            {
                "name": "m",
                "versions": ["1"],
                "platform": "p",
                "inputs": [{"name": "i", "datatype": "FP32", "shape": [-1]}],
                "outputs": [],
            },
        ),
        (
            *("POST", "/v2/repository/index", "RepositoryIndex"),
            pb.RepositoryIndexResponse(models=[{"name": "m", "version": "1", "state": "READY"}]),
            [{"name": "m", "version": "1", "state": "READY", "reason": ""}],
        ),
        (
            *("POST", "/v2/repository/models/m/load", "RepositoryModelLoad"),
            *(pb.RepositoryModelLoadResponse(), {}),
        ),
        (
            *("GET", f"{SYSTEM}/status", "SystemSharedMemoryStatus"),
            pb.SystemSharedMemoryStatusResponse(
                regions={"r": {"name": "r", "key": "/k", "offset": 1, "byte_size": 2**40}}
            ),
            [{"name": "r", "key": "/k", "offset": 1, "byte_size": 2**40}],
        ),
        (*("GET", f"{CUDA}/status", "CudaSharedMemoryStatus"), pb.CudaSharedMemoryStatusResponse(), []),
        (*("GET", "/v2/trace/setting", "TraceSetting"), pb.TraceSettingResponse(), {}),
        (*("GET", "/v2/logging", "LogSettings"), pb.LogSettingsResponse(), {}),
    ],
)
async def test_replies_have_tritons_shapes(
    verb: str, path: str, method: str, reply: Message, expected: Any, served: ServedApp
) -> None:
    served.answer(method, reply)
    told = await served.ask(verb, path)
    assert (told.status_code, told.json()) == (200, expected)
    assert told.headers["content-type"] == "application/json"


async def test_a_configuration_is_told_without_a_frame_around_it(served: ServedApp) -> None:
    config = pb.ModelConfig(
        name="m", max_batch_size=8, input=[{"name": "i", "data_type": pb.TYPE_UINT8, "dims": [8, 8, 3]}]
    )
    served.answer("ModelConfig", pb.ModelConfigResponse(config=config))
    told = (await served.ask("GET", f"{M}/config")).json()
    assert (told["name"], told["max_batch_size"]) == ("m", 8)
    assert told["input"][0]["data_type"] == "TYPE_UINT8"
    assert told["input"][0]["dims"] == [8, 8, 3]


async def test_statistics_are_numbers(served: ServedApp) -> None:
    statistics = pb.ModelStatistics(name="m", version="1", inference_count=2**40)
    statistics.inference_stats.success.count = 3
    served.answer("ModelStatistics", pb.ModelStatisticsResponse(model_stats=[statistics]))
    (told,) = (await served.ask("GET", "/v2/models/stats")).json()["model_stats"]
    assert (told["name"], told["inference_count"]) == ("m", 2**40)
    assert told["inference_stats"]["success"] == {"count": 3, "ns": 0}


async def test_fields_come_as_json_and_the_path_wins(served: ServedApp) -> None:
    served.answer("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterResponse())
    body = {"name": "other", "key": "/k", "offset": 8, "byte_size": 2**40, "unknown": [1]}
    told = await served.ask("POST", f"{SYSTEM}/region/r/register", json=body)
    assert told.json() == {}
    assert served.asked == [
        pb.SystemSharedMemoryRegisterRequest(name="r", key="/k", offset=8, byte_size=2**40)
    ]
    served.answer("RepositoryIndex", pb.RepositoryIndexResponse())
    await served.ask("POST", "/v2/repository/index", json={"ready": True})
    assert served.asked[-1].ready


async def test_parameters_of_a_load_keep_their_types(served: ServedApp) -> None:
    served.answer("RepositoryModelLoad", pb.RepositoryModelLoadResponse())
    parameters = {"config": "{}", "flag": True, "number": 7, "none": None, "deep": {"a": 1}}
    await served.ask("POST", "/v2/repository/models/m/load", json={"parameters": parameters})
    told = served.asked[0].parameters
    assert (told["config"].string_param, told["flag"].bool_param, told["number"].int64_param) == (
        *("{}", True, 7),
    )
    assert "none" not in told


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b'{"offset": "8"}',
        b'{"offset": -1}',
        b'{"offset": 1.5}',
        b'{"offset": 18446744073709551616}',
        b'{"offset": [1]}',
        b'{"offset": null}',
        b'{"key": 7}',
        b'{"key": {"a": 1}}',
        b'{"key": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": "' + b"x" * (1 << 20) + b'"}',
    ],
)
async def test_fields_of_another_kind_are_refused(body: bytes, served: ServedApp) -> None:
    told = await served.ask("POST", f"{SYSTEM}/region/r/register", content=body)
    assert told.status_code == 400
    assert told.json()["reason"] in ("JSON_INVALID", "JSON_TOO_LARGE")
    assert served.asked == []


@pytest.mark.parametrize("parameters", [7, "text", [1], [[1, 2, 3]], {"number": 2**63}, [[[1], 2]]])
async def test_parameters_that_are_none_are_refused(parameters: Any, served: ServedApp) -> None:
    told = await served.ask("POST", "/v2/repository/models/m/load", json={"parameters": parameters})
    assert (told.status_code, told.json()["reason"]) == (400, "JSON_INVALID")


@pytest.mark.parametrize(
    "settings", [{"trace_file": "f"}, {"trace_level": ["A", "B"]}, {"a": None}, {"a": 7, "b": {"c": []}}]
)
async def test_settings_are_passed_on_to_be_refused(settings: Any, served: ServedApp) -> None:
    for path, method in (("/v2/trace/setting", "TraceSetting"), ("/v2/logging", "LogSettings")):
        served.answer(method, UnavailableError("asked."))
        assert (await served.ask("POST", path, json=settings)).status_code == 503
    assert served.asked[0].settings.keys() == {name for name, value in settings.items() if value is not None}


async def test_an_inference_goes_both_ways(served: ServedApp) -> None:
    reply = pb.ModelInferResponse(model_name="m", model_version="3", id="seven")
    reply.outputs.add(name="y", datatype="FP32", shape=[2])
    reply.raw_output_contents.append(np.array([1, np.nan], np.float32).tobytes())
    served.answer("ModelInfer", reply)
    asked = {"id": "seven", "inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [7]}]}
    for path in (f"{M}/infer", f"{V}/infer"):
        told = await served.ask("POST", path, json=asked)
        assert told.json() == {
            "model_name": "m",
            "model_version": "3",
            "id": "seven",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, None]}],
        }
    assert [request.model_version for request in served.asked] == ["", "3"]

    header = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    told = await served.ask(
        *("POST", f"{M}/infer"),
        content=header + b"\x07",
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    length = int(told.headers["inference-header-content-length"])
    assert told.content[length:] == reply.raw_output_contents[0]
    assert json.loads(told.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert served.asked[-1].raw_input_contents == served.asked[0].raw_input_contents


async def test_an_answer_that_cannot_be_told_is_a_refusal(served: ServedApp) -> None:
    reply = pb.ModelInferResponse()
    reply.outputs.add(name="y", datatype="BOOL", shape=[1_000_001])
    reply.raw_output_contents.append(bytes(1_000_001))
    served.answer("ModelInfer", reply)
    told = await served.ask("POST", f"{M}/infer", json={"inputs": []})
    assert (told.status_code, told.json()["reason"]) == (400, "REPLY_TOO_LARGE")
    assert served.counted() == [("ModelInfer", "", "INVALID_ARGUMENT", 1)]


@pytest.mark.parametrize("name", ["%2e%2e", "%00", "%ff", "x" * 10_000, "a%0d%0ab", "%F0%9F%90%88"])
async def test_names_are_passed_on_as_they_are_to_be_refused(name: str, served: ServedApp) -> None:
    served.answer("ModelMetadata", ModelNotFoundError("no."))
    assert (await served.ask("GET", f"/v2/models/{name}")).status_code == 404
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (InvalidRequestError("it takes others.", reason="INPUT_UNKNOWN"), "INPUT_UNKNOWN"),
        (InvalidRequestError("it takes others.", reason="INPUT_MISMATCH"), "INPUT_MISMATCH"),
        (ModelNotFoundError("there is none."), "MODEL_NOT_FOUND"),
        # What is wrong with the message that it is asked by is not the caller's.
        (InvalidRequestError("it has 2 contents.", reason="CONTENTS_MISSING"), "TENSOR_SIZE_MISMATCH"),
    ],
)
async def test_a_model_that_takes_other_tensors_says_so_before_their_elements_are_counted(
    refusal: RetinueError, told: str, served: ServedApp
) -> None:
    served.answer("ModelInfer", refusal)
    wrong = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1]}
    answer = await served.ask("POST", f"{M}/infer", json={"inputs": [wrong]})
    assert answer.json()["reason"] == told
    (asked,) = served.asked
    assert [(one.name, one.datatype, list(one.shape)) for one in asked.inputs] == [("x", "FP32", [2, 2])]
    # Contents for as many inputs as no request has: none would be answered.
    assert list(asked.raw_input_contents) == [b"", b""]
