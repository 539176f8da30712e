"""How `Client` sends requests: over which connection, again where that may help, and translated where it fails."""

import queue
import threading
from typing import Any

import grpc
from retinue.v1 import vision_service_pb2_grpc as pb_grpc

from retinue_client._errors import RetinueError, client_closed
from retinue_client._repository import repository_stub
from retinue_client._retries import Retries, may_get_better
from retinue_client._security import Security
from retinue_client._sending import REPOSITORY_METHODS, Delivery, Sending


class Transport(Delivery):
    """Any number of threads send requests over it. Arguments as `Delivery`'s."""

    def __init__(self, address: str, security: Security, retries: Retries) -> None:
        super().__init__(address, security, retries)
        self._channels = [security.channel(target.name, target.options) for target in self._targets]
        self._stubs = [pb_grpc.VisionServiceStub(channel) for channel in self._channels]
        self._repository: Any = None
        self._opening = threading.Lock()
        self._closing = threading.Event()

    def answer(self, sending: Sending) -> Any:
        """The answer to a request, which is sent where `begin` has not done it, and again where `Retries` says so.

        Raises:
            RetinueError: There is none.
        """
        try:
            while True:
                try:
                    response = self._waited_for(sending)
                except RetinueError as error:
                    delay_seconds = self._delay_seconds(sending, error)
                    if delay_seconds is None:
                        self._failed(sending, error)
                        raise
                    # Closing the client ends the wait.
                    if self._closing.wait(delay_seconds):
                        raise client_closed() from error
                else:
                    return response
        finally:
            if sending.span is not None:
                self.abandon(sending)

    def close(self) -> None:
        """Ends the connections; requests that are under way fail."""
        self.closed = True
        self._closing.set()
        with self._opening:
            for channel in self._channels:
                channel.close()

    def _waited_for(self, sending: Sending) -> Any:
        """One try."""
        if self._hedge_seconds is not None:
            return self._hedged(sending, self._hedge_seconds)
        call, sending.call = sending.call, None
        # A blocking call costs half of what a future does.
        place = self._place(sending) if call is None else sending.place
        assert place is not None
        try:
            if call is None:
                method = self._method(sending.method, place)
                response = method(sending.message, timeout=sending.left_seconds(), metadata=sending.metadata)
            else:
                response = call.result()
        except grpc.RpcError as exc:
            error = self._translated(exc, sending, place)
            self._note(place, error)
            raise error from exc
        except ValueError as exc:
            if not self.closed:
                raise
            raise client_closed() from exc
        except BaseException:
            # Ctrl-C: nobody waits any more.
            if call is not None:
                call.cancel()
            raise
        self._answered(sending, place)
        return response

    def _hedged(self, sending: Sending, after_seconds: float) -> Any:
        """One try, and another one beside it where the first takes long: the first answer counts."""
        landed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        under_way: dict[Any, int] = {}

        def watch(call: Any) -> None:
            assert sending.place is not None
            under_way[call] = sending.place
            call.add_done_callback(landed.put)

        call, sending.call = sending.call, None
        watch(self._sent(sending) if call is None else call)
        wait_seconds: float | None = self._until_hedge_seconds(sending, after_seconds)
        try:
            while True:
                try:
                    done = landed.get(timeout=wait_seconds)
                except queue.Empty:
                    wait_seconds = None
                    if self._may_hedge(sending):
                        watch(self._sent(sending))
                    continue
                place = under_way.pop(done)
                try:
                    response = done.result()
                except grpc.RpcError as exc:
                    error = self._translated(exc, sending, place)
                    self._note(place, error)
                    # The other one may still be answered.
                    if not under_way or not may_get_better(error):
                        raise error from exc
                else:
                    self._answered(sending, place)
                    return response
        finally:
            for call in under_way:
                call.cancel()

    def _sent(self, sending: Sending) -> Any:
        method = self._method(sending.method, self._place(sending))
        try:
            return method.future(sending.message, timeout=sending.left_seconds(), metadata=sending.metadata)
        except ValueError as exc:
            if not self.closed:
                raise
            raise client_closed() from exc

    def _method(self, name: str, place: int) -> Any:
        if self.closed:
            raise client_closed()
        if name in REPOSITORY_METHODS:
            return getattr(self._repository_stub(), name)
        return getattr(self._stubs[place], name)

    def _repository_stub(self) -> Any:
        """Over a channel that asks nobody whether the server is ready: it need not be."""
        with self._opening:
            # What is opened after `close` nobody would close.
            if self.closed:
                raise client_closed()
            if self._repository is None:
                channel = self._channels[0]
                if self._targets[0].balanced:
                    channel = self._security.channel(self._first)
                    self._channels.append(channel)
                self._repository = repository_stub(channel)
            return self._repository
