"""What a server of very many models tells its callers still fits into gRPC's trailers."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from retinue.v1 import vision_service_pb2 as pb
from retinue.v1 import vision_service_pb2_grpc
from tests.unit.server.served import served_model

from retinue_server.batching.engine import Engine
from retinue_server.catalog import Catalog
from retinue_server.metrics import Metrics
from retinue_server.results import Task
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.model_control import PassedOnControl
from retinue_server.rpc.server import RpcServer
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.rpc.status import DETAILS_KEY
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.service import VisionService
from retinue_server.settings import Settings

NAMES = [f"{number:0128}" for number in range(200)]


async def nobody(method: str, request: bytes) -> bytes:
    raise AssertionError(method)


@pytest.fixture
async def stub() -> AsyncIterator[vision_service_pb2_grpc.VisionServiceStub]:
    """Of a real server on a real port; its models have names as long as may be."""
    settings, metrics = Settings(grpc_port=0), Metrics()
    catalog = Catalog(
        [
            *(served_model(name) for name in NAMES),
            *(served_model(NAMES[0], version) for version in range(2, 200)),
            served_model("boxes", task=Task.DETECT),
        ],
        {},
    )
    service = VisionService(Engine(instances=1), metrics)
    service.open(catalog)
    provider = Provider(CPU, "cpu", "", ((CPU, {}),))
    servicer = VisionServicer(service, provider, "1.0", settings)
    tensors = InferenceServicer(service, metrics, provider, settings, PassedOnControl(nobody))
    server = RpcServer(servicer, tensors, Calls(metrics, settings), settings)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield vision_service_pb2_grpc.VisionServiceStub(channel)
    await server.stop()


@pytest.mark.parametrize(
    ("model", "version", "code", "reason"),
    [
        ("fish", 0, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ("\N{CAT FACE}" * 128, 0, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (NAMES[0], 1000, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ("boxes", 0, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_TASK"),
        ("", 0, grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_NAMED"),
    ],
)
async def test_a_refusal_that_names_models_reaches_the_caller(
    model: str,
    version: int,
    code: grpc.StatusCode,
    reason: str,
    stub: vision_service_pb2_grpc.VisionServiceStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Classify(pb.ClassifyRequest(model=model, version=version))
    assert raised.value.code() is code, raised.value.details()
    assert " ..." in str(raised.value.details())
    details = dict(raised.value.trailing_metadata())[DETAILS_KEY]
    info = ErrorInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    assert info.reason == reason
