"""The methods of both services as front-end processes answer them, for callers of the engine's process."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from retinue_server.rpc.calls import CALLER, Context, current_call
from retinue_server.rpc.methods import SERVICES, Methods
from retinue_server.rpc.status import DETAILS_KEY, from_rpc_error
from retinue_server.tracing.origin import REQUEST_ID_KEY, current_origin

# The front-ends hold each message against the limits.
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each a connection of its own, also where several have the same target.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class _Connection:
    """A connection to a front-end, opened by its first call, and how many it carries now.

    Args:
        target: Where that is.
        is_extra: Whether there is another one that stays.
    """

    __slots__ = ("calls", "channel", "is_extra", "target")

    def __init__(self, target: str, *, is_extra: bool = False) -> None:
        self.target = target
        self.is_extra = is_extra
        self.channel = grpc.aio.insecure_channel(target, _OPTIONS)
        self.calls = 0

    @property
    def is_made(self) -> bool:
        """Whether it is there; one that is not is made from now on."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    @property
    def is_broken(self) -> bool:
        """Whether it could not be made."""
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE


class Relay:
    """Passes calls on over gRPC, with what came beside the requests, which must be what gRPC takes, and who calls.

    No call waits for others here: there are as many connections as the calls at once need, and those that were opened
    for many go when there are fewer.

    Args:
        targets: Where the front-ends take them, as the grpc library reads it.
        streams: The calls that a connection carries at once.
    """

    def __init__(self, targets: Sequence[str], streams: int) -> None:
        self._targets = targets
        self._streams = streams
        # Those that were used last come last.
        self._open: list[_Connection] = []
        self.methods: Methods = {
            method.name: partial(self._call, method) for service in SERVICES for method in service.methods
        }

    async def _call(self, method: MethodDescriptor, request: Any, context: Context) -> Any:
        connection = self._least_busy()
        send = connection.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        call = current_call.get()
        # Also where the caller leaves before there is an answer.
        call.passed_on = True
        connection.calls += 1
        try:
            return await send(request, timeout=context.time_remaining(), metadata=_beside(context))
        except grpc.aio.AioRpcError as error:
            # What the front-end refuses has details, and where it has the call it sees its time pass, too. The rest it
            # may never have seen.
            told = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
            too_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            call.passed_on = told or (too_late and connection.is_made)
            raise from_rpc_error(error) from None
        finally:
            connection.calls -= 1
            if connection.is_extra and not connection.calls:
                self._drop_if_spare(connection)

    def _least_busy(self) -> _Connection:
        """A connection that has room, by turns among those that have as little to do; one that is there, if any is."""
        if not self._open:
            self._open = [_Connection(target) for target in self._targets]
        with_room = [one for one in self._open if one.calls < self._streams]
        with_room.sort(key=lambda one: one.calls)
        # No more are asked than it takes, of what may be hundreds. Those to a front-end that has just died have less to
        # do than others, and are made meanwhile.
        found = next((one for one in with_room if one.is_made), None)
        there = self._open
        if found is None:
            there = [one for one in self._open if not one.is_broken] or there
            found = next((one for one in with_room if one in there), None)
        if found is not None:
            self._open.remove(found)
        else:
            found = _Connection(min(there, key=lambda one: one.calls).target, is_extra=True)
        self._open.append(found)
        return found

    def _drop_if_spare(self, idle: _Connection) -> None:
        """Has a connection close, where the others to its front-end have room for twice what they carry."""
        others = [one for one in self._open if one.target == idle.target and one is not idle and one.is_made]
        if idle in self._open and 2 * sum(one.calls for one in others) < self._streams * len(others):
            # The library closes what nobody refers to; to be told to, it would look through all tasks there are.
            self._open.remove(idle)

    async def close(self) -> None:
        """Closes the connections."""
        for one in list(self._open):
            await one.channel.close()


def _beside(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """What comes beside a call: who calls, and the call's id, are what this process knows, whatever they say."""
    known = {CALLER: context.peer()}
    origin = current_origin.get()
    if origin is not None:
        known[REQUEST_ID_KEY] = origin.request_id
    theirs = [entry for entry in context.invocation_metadata() or () if entry[0] not in known]
    return (*theirs, *known.items())
