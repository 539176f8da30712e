"""The gRPC server: limits, services, health, and how it starts and stops."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from retinue.v1 import vision_service_pb2_grpc

from retinue_server.catalog import Catalog
from retinue_server.errors import StartupError
from retinue_server.metrics import Metrics
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.rpc.servicer import SERVICE, VisionServicer
from retinue_server.settings import Settings

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# A reply is bounded by what was asked for (a raw mask of every image), not by a number of its own.
_UNLIMITED = -1


class RpcServer:
    """Serves a `VisionServicer`, grpc.health.v1.Health and reflection.

    Health knows the server as a whole (""), the vision service, and each model by its name.

    Args:
        servicer: Answers calls.
        metrics: Where calls are counted.
        settings: Host, port and limits.

    Attributes:
        port: The port it listens on.
    """

    def __init__(self, servicer: VisionServicer, metrics: Metrics, settings: Settings) -> None:
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(SERVICE, metrics)],
            options=[
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_send_message_length", _UNLIMITED),
                # Else a second server on the same port would quietly take half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        vision_service_pb2_grpc.add_VisionServiceServicer_to_server(servicer, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {address}: the port is in use or the address is not this machine's; "
                "choose others with --grpc-port and --host."
            ) from error

    async def start(self) -> None:
        """Answers calls; until `open`, with UNAVAILABLE."""
        await self._health.set("", _NOT_SERVING)
        await self._server.start()

    async def open(self, catalog: Catalog) -> None:
        """Reports the server and its models as serving."""
        for service in ("", SERVICE, *{model.name for model in catalog.models}):
            await self._health.set(service, _SERVING)

    async def close(self) -> None:
        """Reports everything as not serving."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Takes no new calls, and cancels those that are not finished after the grace."""
        await self._server.stop(grace_seconds)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
