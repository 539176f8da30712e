"""Models on their way out: no request finds them any more, and each goes when the calls that hold it are answered."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from retinue_server.catalog import ServedModel

_log = structlog.get_logger(__name__)

# As long as any call may hold a model that nobody finds any more.
LONGEST_LEASE_SECONDS = 60.0


class Departures:
    """Unloads models that were taken away. Used on the event loop.

    Args:
        unload: Unloads a model, and waits at most so many seconds for what of it runs.
        gone: Called when nothing of a model is left and no call holds it.
        longest_lease_seconds: How long a model waits for the calls that hold it.
    """

    def __init__(
        self,
        unload: Callable[[ServedModel, float], Awaitable[None]],
        gone: Callable[[ServedModel], None],
        longest_lease_seconds: float,
    ) -> None:
        self._unload = unload
        self._gone = gone
        self._longest_lease_seconds = longest_lease_seconds
        self._leaving: dict[asyncio.Task[None], ServedModel] = {}
        self._closing = asyncio.get_running_loop().create_future()

    def add(self, model: ServedModel) -> asyncio.Task[None]:
        """Begins to take a model away; returns what ends when it is unloaded."""
        task = asyncio.get_running_loop().create_task(self._depart(model))
        self._leaving[task] = model
        task.add_done_callback(self._leaving.pop)
        return task

    def models(self) -> list[ServedModel]:
        """Those that are not unloaded yet."""
        return list(self._leaving.values())

    def tasks(self, name: str) -> list[asyncio.Task[None]]:
        """What ends when those of a name are unloaded."""
        return [task for task, model in self._leaving.items() if model.name == name]

    def hurry(self) -> None:
        """Waits for no call any more, from now on."""
        self._closing.set_result(None)

    @property
    def hurried(self) -> bool:
        """Whether that has been said."""
        return self._closing.done()

    async def all_gone(self) -> None:
        """Waits until all are unloaded."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _depart(self, model: ServedModel) -> None:
        """Unloads a model when no call holds it any more, or all have had their time."""
        returned = asyncio.ensure_future(model.leases.all_returned())
        await asyncio.wait(
            [returned, self._closing],
            timeout=self._longest_lease_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if len(model.leases):
            _log.warning("model_still_held", model=model.name, version=model.version, calls=len(model.leases))
        await self._unload(model, 0 if self.hurried else self._longest_lease_seconds)
        # A call is counted by its model's name, so not before the last one is.
        returned.add_done_callback(lambda _: self._gone(model))
