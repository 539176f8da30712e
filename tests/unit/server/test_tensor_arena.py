"""What networks without a manifest may take, when that hangs on the values they are given."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests import plain_models

from retinue_server.batching.engine import Engine
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import ServedModel
from retinue_server.errors import BundleError, InvalidRequestError, OverloadedError, RetinueError
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.runtime import control_group, memory
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import MemoryLimit, tensor_limit_bytes
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tensor_arena import TensorArena
from retinue_server.runtime.tensor_session import TensorSession
from retinue_server.runtime.tuning import Tuner

_MB = 1_000_000
_LIMIT_BYTES = 60 * _MB
_FLOAT_BYTES = 4


@pytest.fixture
def arena() -> TensorArena:
    return TensorArena(_LIMIT_BYTES, patience_seconds=60)


@pytest.fixture
def session(arena: TensorArena, tmp_path: Path) -> TensorSession:
    return opened(tmp_path, arena)


def opened(models: Path, arena: TensorArena) -> TensorSession:
    provider = Provider(CPU, "cpu", "", ((CPU, {}),))
    return TensorSession(plain_models.counted(models), Machine(provider, Threads(1, 1), tensor_arena=arena))


def count(session: TensorSession, size_bytes: int) -> int:
    elements = size_bytes // _FLOAT_BYTES
    return _FLOAT_BYTES * int(session.run({"sizes": np.array([elements])})["count"])


def refusal(run: Callable[[], object]) -> RetinueError:
    with pytest.raises(RetinueError) as refused:
        run()
    return refused.value


@pytest.mark.parametrize("size_bytes", [_LIMIT_BYTES + 1000, 100_000 * _MB, 100_000_000 * _MB])
def test_a_run_that_wants_more_than_there_is_fails_and_takes_nothing(
    session: TensorSession, size_bytes: int
) -> None:
    assert count(session, 4 * _MB) == 4 * _MB
    before_bytes = psutil.Process().memory_info().rss
    error = refusal(lambda: count(session, size_bytes))
    assert isinstance(error, InvalidRequestError)
    assert error.reason == "NETWORK_MEMORY"
    assert "60 MB that --tensor-memory-limit allows" in error.message
    assert psutil.Process().memory_info().rss - before_bytes < 8 * _MB
    assert count(session, 4 * _MB) == 4 * _MB


def test_what_smaller_runs_have_left_in_pieces_serves_a_larger_one(session: TensorSession) -> None:
    # Each is larger than any piece before it.
    for megabytes in (10, 20, 28, 50, 58):
        assert count(session, megabytes * _MB) == megabytes * _MB


def test_two_that_do_not_fit_beside_each_other_both_run(session: TensorSession) -> None:
    start = threading.Barrier(2)
    found = []

    def run() -> None:
        start.wait()
        found.extend(count(session, 50 * _MB) for _ in range(10))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [50 * _MB] * 20


def test_a_run_that_finds_no_memory_beside_a_long_one_is_told_to_come_back(
    tmp_path: Path,
) -> None:
    arena = TensorArena(_LIMIT_BYTES, patience_seconds=0.01)
    session = opened(tmp_path, arena)

    def beside() -> object:
        return arena.run(no_memory)

    def no_memory() -> object:
        raise RuntimeError("bfc_arena.cc:360 Available memory of 1 is smaller than requested bytes of 2")

    error = refusal(lambda: arena.run(beside))
    assert isinstance(error, OverloadedError)
    assert (error.reason, error.retry_after_seconds > 0) == ("NETWORK_MEMORY", True)
    assert count(session, 50 * _MB) == 50 * _MB


def test_what_fails_for_another_reason_is_not_tried_again(arena: TensorArena) -> None:
    tried = []

    def run() -> object:
        tried.append(True)
        raise RuntimeError("the index is out of its range")

    with pytest.raises(RuntimeError, match="out of its range"):
        arena.run(run)
    assert len(tried) == 1


def test_without_a_setting_it_is_a_quarter_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensor_limit_bytes(5 * _MB, 100 * _MB) == 5 * _MB
    assert tensor_limit_bytes(0, 100 * _MB) == 25 * _MB
    monkeypatch.setattr(control_group, "read", lambda name: iter(["80000000"]))
    assert tensor_limit_bytes(0, 0) == 20 * _MB
    monkeypatch.setattr(control_group, "read", lambda name: iter(["max"]))
    assert tensor_limit_bytes(0, 0) == psutil.virtual_memory().total // 4


class Bench:
    """A loader, and what it may take."""

    def __init__(self, arena: TensorArena, folder: Path, limit_bytes: int = 0) -> None:
        provider = Provider(CPU, "cpu", "", ((CPU, {}),))
        machine = Machine(provider, Threads(1, 1), tensor_arena=arena)
        self.limit = MemoryLimit(limit_bytes, "--memory-limit allows")
        tuner = Tuner("off", machine, ModelCache(folder / "cache"))
        self.loader = Loader(
            Engine(1),
            machine,
            max_queue_images=8,
            decoders=None,
            tuner=tuner,
            limit=self.limit,
            metrics=Metrics(),
        )
        self._models = folder / "models"

    def load(self, name: str) -> ServedModel:
        return self.loader.load(BundleFolder(name, 1, plain_models.counted(self._models / name).parent))


def test_the_arena_is_set_aside_while_there_is_such_a_model(arena: TensorArena, tmp_path: Path) -> None:
    bench = Bench(arena, tmp_path)
    models = [bench.load("first"), bench.load("second")]
    weights_bytes = [model.memory.weights_bytes for model in models]
    assert bench.limit.taken_bytes == _LIMIT_BYTES + sum(weights_bytes)
    bench.loader.unload(models[0])
    assert bench.limit.taken_bytes == _LIMIT_BYTES + weights_bytes[1]
    bench.loader.unload(models[1])
    assert bench.limit.taken_bytes == 0


def test_a_model_for_whose_arena_there_is_no_room_is_refused(arena: TensorArena, tmp_path: Path) -> None:
    bench = Bench(arena, tmp_path, _LIMIT_BYTES)
    error = refusal(lambda: bench.load("counted"))
    assert isinstance(error, BundleError)
    assert error.reason == "MEMORY_LIMIT"
    assert "and 60 that all models without a manifest work in" in error.message
    assert "lower --tensor-memory-limit" in error.message
    assert bench.limit.taken_bytes == 0


def test_a_model_that_goes_gives_back_what_it_has_left_in_the_arena(
    session: TensorSession,
) -> None:
    before_bytes = psutil.Process().memory_info().rss
    count(session, 50 * _MB)
    assert psutil.Process().memory_info().rss - before_bytes > 40 * _MB
    session.close()
    # As whoever unloads a model does; other tests of this process may have told the allocator to keep more.
    memory.give_back_freed()
    assert psutil.Process().memory_info().rss - before_bytes < 8 * _MB
