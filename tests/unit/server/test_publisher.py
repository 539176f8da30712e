"""Whatever changes while somebody is told, the latest is what holds."""

import asyncio
from typing import Any

from tests.unit.server.served import served_model
from tests.unit.server.streams import settle

from retinue_server.batching.engine import Engine
from retinue_server.catalog import Catalog
from retinue_server.metrics import Metrics
from retinue_server.publisher import Publisher
from retinue_server.service import VisionService


class Front:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Catalog] = []

    async def publish(self, catalog: Catalog) -> None:
        self.told.append(catalog)

    async def close(self) -> None:
        raise AssertionError("never closed")


async def test_models_that_come_while_readiness_changes_are_not_taken_back() -> None:
    service, front = VisionService(Engine(1), Metrics()), Front()
    publisher = Publisher(asyncio.get_running_loop())
    publisher.attach(service, front)
    publisher.readiness_changed()
    await settle()
    assert front.told == []
    before, now = (Catalog([served_model("a-model", version)], {}) for version in (1, 2))
    service.open(before)
    loop: Any = asyncio.get_running_loop()
    publisher.readiness_changed()
    # In the same turn of the loop, before what was begun has its own.
    loop.call_soon(service.replace, now)
    await settle()
    assert service.catalog is now
    assert front.told == [now]
