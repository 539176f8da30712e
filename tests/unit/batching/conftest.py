from collections.abc import Iterator

import pytest
from tests.unit.batching.fakes import Clock, FakeBackend

from retinue_server.batching.batcher import Batcher
from retinue_server.batching.engine import Engine


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    engine = Engine(instances=1, clock=clock)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def batcher(backend: FakeBackend, engine: Engine) -> Batcher[int, int]:
    return Batcher(backend, engine, capacity=16, item_seconds=0.1)
