"""How `AsyncClient` sends requests: `Transport` for asyncio."""

import asyncio
from typing import Any

import grpc
from retinue.v1 import vision_service_pb2_grpc as pb_grpc

from retinue_client._errors import RetinueError, client_closed
from retinue_client._repository import repository_stub
from retinue_client._retries import may_get_better
from retinue_client._sending import REPOSITORY_METHODS, Delivery, Sending


class AsyncTransport(Delivery):
    """Any number of tasks of one event loop send requests over it, once it is open. Arguments as `Delivery`'s."""

    _channels: list[grpc.aio.Channel] | None = None
    _stubs: list[Any]
    _repository: Any = None
    _closing: asyncio.Event

    async def answer(self, sending: Sending) -> Any:
        """The answer to a request, which is sent where `begin` has not done it, and again where `Retries` says so.

        Raises:
            RetinueError: There is none.
        """
        try:
            while True:
                try:
                    response = await self._waited_for(sending)
                except RetinueError as error:
                    delay_seconds = self._delay_seconds(sending, error)
                    if delay_seconds is None:
                        self._failed(sending, error)
                        raise
                    if await self._closes_within(delay_seconds):
                        raise client_closed() from error
                else:
                    return response
        finally:
            if sending.span is not None:
                self.abandon(sending)

    async def close(self) -> None:
        """Ends the connections; requests that are under way fail."""
        self.closed = True
        if self._channels is not None:
            self._closing.set()
            for channel in self._channels:
                await channel.close()

    async def _closes_within(self, seconds: float) -> bool:
        """Waits so long, or until the client is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    async def _waited_for(self, sending: Sending) -> Any:
        """One try."""
        if self._hedge_seconds is not None:
            return await self._hedged(sending, self._hedge_seconds)
        call, sending.call = sending.call, None
        if call is None:
            call = self._sent(sending)
        assert sending.place is not None
        return await self._answer_of(call, sending, sending.place)

    async def _answer_of(self, call: Any, sending: Sending, place: int) -> Any:
        try:
            response = await call
        except grpc.RpcError as exc:
            error = self._translated(exc, sending, place)
            self._note(place, error)
            raise error from exc
        except asyncio.CancelledError as exc:
            # gRPC raises it for a closed channel too, and asyncio would take the task for cancelled.
            task = asyncio.current_task()
            if not self.closed or (task is not None and task.cancelling()):
                raise
            raise client_closed() from exc
        except grpc.aio.UsageError as exc:
            if not self.closed:
                raise
            raise client_closed() from exc
        self._answered(sending, place)
        return response

    async def _hedged(self, sending: Sending, after_seconds: float) -> Any:
        """One try, and another one beside it where the first takes long: the first answer counts."""

        def watched(call: Any) -> "asyncio.Task[Any]":
            assert sending.place is not None
            return asyncio.create_task(self._answer_of(call, sending, sending.place))

        call, sending.call = sending.call, None
        if call is None:
            call = self._sent(sending)
        # The task that takes an answer which is there already has yet to run.
        wait_seconds = None if call.done() else self._until_hedge_seconds(sending, after_seconds)
        under_way = {watched(call)}
        try:
            while True:
                done, under_way = await asyncio.wait(
                    under_way, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    wait_seconds = None
                    if self._may_hedge(sending):
                        under_way.add(watched(self._sent(sending)))
                    continue
                failures = [failure for one in done if (failure := one.exception()) is not None]
                if len(failures) < len(done):
                    return next(one.result() for one in done if one.exception() is None)
                # The other one may still be answered.
                lasting = [
                    one for one in failures if not (isinstance(one, RetinueError) and may_get_better(one))
                ]
                if lasting or not under_way:
                    raise (lasting or failures)[0]
        finally:
            for one in under_way:
                one.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _sent(self, sending: Sending) -> Any:
        if self.closed:
            raise client_closed()
        method = self._method(sending.method, self._place(sending))
        return method(sending.message, timeout=sending.left_seconds(), metadata=sending.metadata)

    def _method(self, name: str, place: int) -> Any:
        # A channel belongs to the event loop in which it is made.
        if self._channels is None:
            self._channels = [self._security.aio_channel(one.name, one.options) for one in self._targets]
            self._stubs = [pb_grpc.VisionServiceStub(channel) for channel in self._channels]
            self._closing = asyncio.Event()
        if name not in REPOSITORY_METHODS:
            return getattr(self._stubs[place], name)
        if self._repository is None:
            channel = self._channels[0]
            if self._targets[0].balanced:
                # It asks nobody whether the server is ready, which it need not be.
                channel = self._security.aio_channel(self._first)
                self._channels.append(channel)
            self._repository = repository_stub(channel)
        return getattr(self._repository, name)
