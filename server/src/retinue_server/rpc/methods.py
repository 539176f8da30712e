"""The methods of both services by their names, for callers that do not come over gRPC."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from retinue.inference import grpc_service_pb2
from retinue.v1 import vision_service_pb2

from retinue_server.rpc.calls import Context
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.servicer import VisionServicer

# Takes a method's request and gives its reply, or raises a RetinueError.
Method: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Methods: TypeAlias = Mapping[str, Method]

SERVICES = (
    vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"],
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
)


def of(vision: VisionServicer, tensors: InferenceServicer) -> Methods:
    """The methods of servicers in this process."""
    return {
        method.name: getattr(servicer, method.name)
        for servicer, service in zip((vision, tensors), SERVICES, strict=True)
        for method in service.methods
    }
