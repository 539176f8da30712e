"""The methods of both services as front-end processes answer them, for callers of the engine's process."""

from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from retinue_server.rpc.calls import Context
from retinue_server.rpc.methods import SERVICES, Methods
from retinue_server.rpc.status import from_rpc_error

# The front-ends hold each message against the limits.
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each a connection; where several have the same target, the kernel gives each to one of the front-ends.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class Relay:
    """Passes calls on over gRPC, with what came beside the requests, which must be what gRPC takes.

    Args:
        targets: Where to have a connection to, each from the first call on, as the grpc library reads it.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets
        self._open: list[grpc.aio.Channel] = []
        self.methods: Methods = {
            method.name: partial(self._call, method) for service in SERVICES for method in service.methods
        }

    async def _call(self, method: MethodDescriptor, request: Any, context: Context) -> Any:
        call = self._next().unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        try:
            return await call(
                request,
                timeout=context.time_remaining(),
                metadata=tuple(context.invocation_metadata() or ()),
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _next(self) -> grpc.aio.Channel:
        """The next connection that is there; others, such as that of a front-end that has died, are made meanwhile."""
        if not self._open:
            self._open = [grpc.aio.insecure_channel(target, _OPTIONS) for target in self._targets]
            self._turns = cycle(self._open)
        for channel in islice(self._turns, len(self._open)):
            if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                return channel
        # One that is being made is waited for.
        return next(self._turns)

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._open:
            await channel.close()
