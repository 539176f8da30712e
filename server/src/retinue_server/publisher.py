"""Tells all who answer requests which models there are, and which of them are ready."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from retinue_server.catalog import Catalog
from retinue_server.service import VisionService


class Front(Protocol):
    """Who has the gRPC port: `rpc.server.RpcServer`, or front-ends."""

    async def publish(self, catalog: Catalog) -> None:
        """Has requests find the models of a catalog."""
        ...

    async def close(self) -> None:
        """Has everything reported as not serving."""
        ...


class Publisher:
    """Passes on what has changed. `readiness_changed` and `engine_failed` are for any thread, the rest for the loop's.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._service: VisionService | None = None
        self._front: Front | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, service: VisionService, front: Front) -> None:
        """Tells these from now on."""
        self._service, self._front = service, front

    async def publish(self, catalog: Catalog) -> None:
        """Has requests find the models of a catalog from now on."""
        assert self._service is not None
        assert self._front is not None
        self._service.replace(catalog)
        await self._front.publish(catalog)

    def readiness_changed(self) -> None:
        """A model takes requests again, or takes none for now."""
        self._loop.call_soon_threadsafe(self._begin, self._publish_again)

    def engine_failed(self) -> None:
        """Nothing is run any more."""
        self._loop.call_soon_threadsafe(self._begin, self._close)

    async def _publish_again(self) -> None:
        # Before it is open nobody is told anything. The catalog is that of now: another may have come meanwhile.
        if self._service is not None and self._service.is_open:
            await self.publish(self._service.catalog)

    async def _close(self) -> None:
        if self._front is not None:
            await self._front.close()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
