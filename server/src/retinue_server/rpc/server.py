"""The gRPC server: limits, services, health, and how it starts and stops."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from retinue.inference import grpc_service_pb2_grpc
from retinue.v1 import vision_service_pb2_grpc

from retinue_server.catalog import Catalog
from retinue_server.connections import ConnectionLimits
from retinue_server.rpc import inference_replies, inference_servicer, inference_wire, wire
from retinue_server.rpc.arrivals import Arrivals
from retinue_server.rpc.calls import Calls
from retinue_server.rpc.inference_servicer import InferenceServicer
from retinue_server.rpc.interceptor import CallInterceptor
from retinue_server.rpc.port import address, cannot_listen
from retinue_server.rpc.servicer import SERVICE, VisionServicer
from retinue_server.rpc.symbols import Symbols
from retinue_server.runtime.providers import available_cores
from retinue_server.settings import Settings
from retinue_server.tls import Identity, IdentityFiles

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# What health knows besides models; the empty name is the server's.
_SERVICES = frozenset({"", SERVICE, inference_servicer.SERVICE})

# gRPC's own limits, whose refusals carry neither reason nor advice, lie this much above the settings: what exceeds a
# setting is told so by the interceptor, and only what exceeds it by far is cut off.
_HEADROOM = 2
# What protobuf can hold. Replies are bounded by `max_reply_bytes` of masks and what little else there is.
_LARGEST_MESSAGE_BYTES = 2**31 - 1

# Enough to keep a core busy; what waits at callers need not be read, kept, and refused.
_STREAMS_PER_CORE = 8
_LEAST_STREAMS = 16

_QUIET_SECONDS = 0.1
_LONGEST_WAIT_FOR_QUIET_SECONDS = 1.0
# For the last answers to leave.
_CLOSING_SECONDS = 1.0
# For connections to be told that they are closing, also where the machine is busy.
_GOODBYE_SECONDS = 0.3


class RpcServer:
    """Serves the typed API and the Open Inference Protocol, grpc.health.v1.Health and reflection.

    Health knows the server as a whole (""), both services, and each model by its name.

    Args:
        vision: Answers calls of the typed API.
        tensors: Answers those of the Open Inference Protocol.
        calls: Bounds and counts calls.
        settings: Host, port and limits.
        identity: Who the server is to callers; None speaks to them without encryption.
        no_room: Whether the process has more memory than it may have.
        private_address: Where calls of this server's own processes come in without encryption; empty for nowhere.

    Attributes:
        port: The port it listens on.
    """

    def __init__(
        self,
        vision: VisionServicer,
        tensors: InferenceServicer,
        calls: Calls,
        settings: Settings,
        *,
        identity: IdentityFiles | None = None,
        no_room: Callable[[], bool] = lambda: False,
        private_address: str = "",
    ) -> None:
        self._calls = calls
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        # What no queue can hold would be told to retry for ever.
        max_images = min(settings.max_images_per_request, settings.max_queue_images)
        interceptor = CallInterceptor(
            {
                SERVICE: partial(wire.check_fields, max_images=max_images),
                inference_servicer.SERVICE: inference_wire.check_fields,
            },
            inference_replies.stream_error,
            calls,
            settings.max_request_bytes,
            Arrivals(settings.arrival_timeout_seconds, no_room),
        )
        self._server = grpc.aio.server(
            interceptors=[interceptor],
            # Counts health checks too, and calls whose message is still on its way.
            maximum_concurrent_rpcs=_HEADROOM * settings.max_concurrent_requests,
            options=[
                *ConnectionLimits.of(settings).grpc_options(),
                (
                    "grpc.max_receive_message_length",
                    min(_HEADROOM * settings.max_request_bytes, _LARGEST_MESSAGE_BYTES),
                ),
                ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
                # Where callers send more all the same, gRPC refuses it in its own threads, for a tenth of what an
                # answer with a reason costs.
                ("grpc.max_concurrent_streams", streams_per_connection(settings)),
                # We do that, and count what comes of it.
                ("grpc.per_message_decompression", 0),
                # This would count calls that are answered already, too, and refuse callers who keep to the limit.
                ("grpc.http.overload_protection", 0),
                # Where nobody is to share it, a second server on the same port would quietly take half of the calls.
                ("grpc.so_reuseport", int(settings.workers > 0)),
            ],
        )
        vision_service_pb2_grpc.add_VisionServiceServicer_to_server(vision, self._server)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(tensors, self._server)
        self._health = health.aio.HealthServicer()
        self._serving: set[str] = set()
        self._known: set[str] = set()
        self._publishing = asyncio.Lock()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, inference_servicer.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
            pool=Symbols(),
        )
        self.port = self._listen(settings, identity)
        if private_address:
            self._server.add_insecure_port(private_address)

    def _listen(self, settings: Settings, identity: IdentityFiles | None) -> int:
        where = address(settings.host, settings.grpc_port)
        try:
            if identity is None:
                return self._server.add_insecure_port(where)
            return self._server.add_secure_port(where, _credentials(identity))
        except RuntimeError as error:
            raise cannot_listen(settings.host, settings.grpc_port) from error

    async def start(self) -> None:
        """Answers calls; until `open`, which may have been before, with UNAVAILABLE."""
        if not self._known:
            await self._health.set("", _NOT_SERVING)
        await self._server.start()

    async def open(self, catalog: Catalog) -> None:
        """Reports the server and its models as serving."""
        await self.publish(catalog)

    async def publish(self, catalog: Catalog) -> None:
        """Reports the models of a catalog that are ready as serving, and those that are not or are gone as not."""
        # What is said last is what holds.
        async with self._publishing:
            names = {model.name for model in catalog.models} - _SERVICES
            ready = {model.name for model in catalog.models if model.ready} & names
            if catalog.works:
                ready |= _SERVICES
            for name in (self._known | names) - ready:
                await self._health.set(name, _NOT_SERVING)
            for name in ready - self._serving:
                await self._health.set(name, _SERVING)
            self._known, self._serving = names | _SERVICES, ready

    async def close(self) -> None:
        """Reports everything as not serving."""
        await self._health.enter_graceful_shutdown()

    async def finish(self, grace_seconds: float) -> None:
        """Waits until the vision calls in flight are answered, or the grace is over."""
        await self._calls.finished(grace_seconds)

    async def stop(self) -> None:
        """Closes the port and every connection.

        Whoever calls at that moment, and whoever watches the health, is cut off with CANCELLED by the grpc library. So
        callers, who are all refused by now, are told so only when their connections know that they are closing: until
        then they wait, and do not call again.
        """
        self._calls.hold()
        await self._calls.quiet(_QUIET_SECONDS, timeout_seconds=_LONGEST_WAIT_FOR_QUIET_SECONDS)
        stopping = asyncio.ensure_future(self._server.stop(_CLOSING_SECONDS))
        if self._calls.held:
            await asyncio.sleep(_GOODBYE_SECONDS)
        self._calls.release()
        await stopping


def _is_news(record: logging.LogRecord) -> bool:
    """Not that what came beside a call is no UTF-8, with all of it and a traceback: any caller can send that."""
    return not str(record.msg).startswith("Invalid encoding on ")


def _credentials(identity: IdentityFiles) -> grpc.ServerCredentials:
    """What encrypts connections: each new one with what the files hold then."""
    used = identity.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC in threads of its own, one at a time, with each new connection; None goes on as before."""
        nonlocal used
        now = identity.current()
        if now is used:
            return None
        used = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        # Its stub has forgotten that None may be given.
        changed,  # type: ignore[arg-type]
        require_client_authentication=bool(used.client_ca),
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.chain)], identity.client_ca or None
    )


def streams_per_connection(settings: Settings) -> int:
    """The calls that one connection carries at once; further ones wait at the caller."""
    return settings.max_streams_per_connection or max(_STREAMS_PER_CORE * available_cores(), _LEAST_STREAMS)
