"""The server without its ports, for a process that scores images itself: the very servicer, asked with bytes."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from retinue.v1 import vision_service_pb2

from retinue_server import core, log
from retinue_server.errors import InvalidRequestError, ModelControlError, RetinueError, UnsupportedError
from retinue_server.metrics import Metrics
from retinue_server.publisher import Publisher
from retinue_server.rpc.calls import Call, Calls
from retinue_server.rpc.servicer import VisionServicer
from retinue_server.rpc.status import to_status
from retinue_server.rpc.wire import check_fields
from retinue_server.runtime.providers import RUNTIME_VERSION
from retinue_server.settings import Settings

_METHODS = vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].methods_by_name
# Nobody calls this process, so that it has no front-ends, and loads what is named and nothing else.
_FIXED = ("--workers", "0", "--model-control", "explicit")
_ALL = "all"


def engine(arguments: Sequence[str] = (), models: str = "") -> "LocalEngine":
    """Makes an engine for this process; it does nothing yet.

    This is what the entry point `retinue.engine` offers to programs that do not import the server.

    Args:
        arguments: Flags of `retinue-server`; its variables in the environment hold as well.
        models: Which models it loads, names separated by commas; empty for all of the folder.
    """
    return LocalEngine(arguments, models)


class LocalEngine:
    """Answers `VisionService`'s calls in this process: bytes in, bytes out. It belongs to one event loop.

    Errors come as the bytes of the google.rpc.Status that a server would have sent, with code, reason, message and
    delay, so that who asks needs no class of the server's.

    Args:
        arguments: As above.
        models: Likewise.
    """

    def __init__(self, arguments: Sequence[str] = (), models: str = "") -> None:
        self._arguments = arguments
        self._models = models
        self._core: core.Core | None = None
        self._calls: Calls | None = None
        self._servicer: VisionServicer | None = None
        self._closing = False

    async def start(self) -> bytes:
        """Loads the models, measures them where that was not done before, and begins to answer.

        Returns:
            Nothing, or the google.rpc.Status that says why it cannot: the settings do not hold, a model that was named
            is not there or cannot be loaded, or none can.
        """
        try:
            await self._start()
        except RetinueError as error:
            return _told(error)
        return b""

    async def answer(
        self, method: str, request: bytes, timeout_seconds: float | None = None
    ) -> tuple[bool, bytes]:
        """Answers one call.

        Args:
            method: Of `VisionService`, such as Classify.
            request: Its message.
            timeout_seconds: After which time the answer is worthless; None for never.

        Returns:
            Whether there is a reply, and its message, or else the google.rpc.Status that says why not.
        """
        assert self._calls is not None, "it was not started"
        context = _Context(timeout_seconds)
        # What a call holds is given back when its task ends.
        call = asyncio.ensure_future(
            self._calls.answer(method, context, partial(self._work, method, request, context))
        )
        del request
        try:
            return True, await call
        except RetinueError as error:
            return False, _told(error)

    async def close(self) -> None:
        """Finishes what runs, refuses what waits, and gives the memory back. Closing twice is fine."""
        running, self._core = self._core, None
        self._closing = True
        if running is not None:
            running.service.drain()
            await running.stop()
            await running.close()
            await asyncio.to_thread(log.flush)

    async def _start(self) -> None:
        settings = Settings.resolve(
            [*self._arguments, *_FIXED, "--load-models", "" if self._models else _ALL]
        )
        level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
        log.configure(level, settings.log_format)
        core.prepare_process()
        metrics = Metrics()
        publisher = Publisher(asyncio.get_running_loop())
        self._core = running = core.Core(
            settings,
            metrics,
            publisher,
            cancelled=lambda: self._closing,
            forget=metrics.forget_model,
        )
        publisher.attach(running.service, _NoFront())
        self._calls = Calls(metrics, running.settings)
        self._servicer = VisionServicer(running.service, running.provider, RUNTIME_VERSION, running.settings)
        running.start()
        running.service.open(await running.load())
        for name in filter(None, self._models.split(",")):
            try:
                await running.repository.load(name)
            except ModelControlError:
                # Another version of it may do, and the log has why this one does not.
                if not running.repository.catalog.serves(name):
                    raise

    async def _work(self, method: str, request: bytes, context: "_Context", call: Call) -> bytes:
        call.holding.hold_request(len(request))
        if method not in _METHODS:
            raise UnsupportedError(f"there is no call '{method}'.")
        assert self._core is not None
        try:
            check_fields(request, method, max_images=self._core.settings.max_images_per_request)
            message = GetMessageClass(_METHODS[method].input_type).FromString(request)
        except DecodeError as error:
            raise InvalidRequestError(
                f"the bytes of the request are no {method}Request.", reason="REQUEST_UNREADABLE"
            ) from error
        reply: Any = await getattr(self._servicer, method)(message, context)
        data: bytes = reply.SerializeToString()
        call.holding.hold_reply(len(data))
        return data


def _told(error: RetinueError) -> bytes:
    status: bytes = to_status(error).SerializeToString()
    return status


class _Context:
    """Whoever calls is this process: see `rpc.calls.Context`."""

    def __init__(self, timeout_seconds: float | None) -> None:
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def peer(self) -> str:
        """Who calls."""
        return "local"

    def time_remaining(self) -> float | None:
        """The seconds until the answer is worthless; None for never."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What came beside the request: nothing."""
        return ()


class _NoFront:
    """Who else would be told of models that come and go: see `publisher.Front`."""

    async def publish(self, catalog: Any) -> None:
        """Nobody is."""

    async def close(self) -> None:
        """Nobody is."""
