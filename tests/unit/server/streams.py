"""Streams through the interceptor, for tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
from prometheus_client.samples import Sample
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.metrics import Metrics
from retinue_server.rpc.calls import Calls, current_call
from retinue_server.rpc.inference_replies import stream_error
from retinue_server.rpc.inference_wire import check_fields
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.settings import Settings

SERVICE = "inference.GRPCInferenceService"
PATH = f"/{SERVICE}/ModelStreamInfer"
MOST_OF_A_STREAM = 64
MOST_BYTES = 2000
# Whatever is waited for comes at once, or never.
SOON_SECONDS = 30.0

Behaviour = Callable[[pb.ModelInferRequest, Any], Awaitable[pb.ModelStreamInferResponse]]


class FakeContext:
    """Keeps what was written to a stream."""

    def __init__(self) -> None:
        self.messages: AsyncIterator[bytes] = these([])
        self.written: list[pb.ModelStreamInferResponse] = []

    async def read(self) -> Any:
        return await anext(self.messages, grpc.aio.EOF)

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "a caller"

    async def write(self, reply: bytes) -> None:
        self.written.append(pb.ModelStreamInferResponse.FromString(reply))

    @property
    def ids(self) -> list[str]:
        return [one.infer_response.id for one in self.written]


class Gates:
    """A behaviour of which each answer waits until its request is let through.

    Attributes:
        model: What all requests are for.
        begun: The ids of the requests that came, in their order.
    """

    def __init__(self) -> None:
        self.model = served_model("a-model", 3)
        self.begun: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    async def __call__(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
        current_call.get().message_id = request.id
        current_call.get().name_model(self.model)
        self.begun.append(request.id)
        await self._gate(request.id).wait()
        return answer_to(request)

    def open(self, *ids: str) -> None:
        for one in ids:
            self._gate(one).set()

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())


def interceptor_of(metrics: Metrics, **settings: Any) -> CallInterceptor:
    calls = Calls(metrics, Settings(**settings))
    return CallInterceptor({SERVICE: check_fields}, stream_error, calls, MOST_BYTES)


def request_of(request_id: str, model: str = "a-model") -> bytes:
    return pb.ModelInferRequest(id=request_id, model_name=model).SerializeToString()


def answer_to(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=request.id))


async def at_once(request: pb.ModelInferRequest, context: Any) -> pb.ModelStreamInferResponse:
    current_call.get().message_id = request.id
    return answer_to(request)


async def stream_of(interceptor: CallInterceptor, behaviour: Behaviour) -> Any:
    async def continuation(details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(
            behaviour,
            pb.ModelInferRequest.FromString,
            pb.ModelStreamInferResponse.SerializeToString,
        )

    handler: Any = await interceptor.intercept_service(continuation, SimpleNamespace(method=PATH))

    async def run(messages: AsyncIterator[bytes], context: Any) -> None:
        context.messages = messages
        await handler.stream_stream(None, context)

    return run


async def these(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a state."""
    async with asyncio.timeout(SOON_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def calls(metrics: Metrics) -> list[Sample]:
    return [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "retinue_requests_total"
    ]


def counted(metrics: Metrics) -> dict[str, float]:
    """How many calls ended with each status."""
    return {sample.labels["code"]: sample.value for sample in calls(metrics)}
