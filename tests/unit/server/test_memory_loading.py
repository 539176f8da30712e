"""Models that are loaded are accounted for, and those that are unloaded or refused leave nothing behind."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from prometheus_client import generate_latest
from tests import colour_bundles

from retinue_server import vision_loader
from retinue_server.batching.engine import Engine
from retinue_server.bundle.repository import BundleFolder
from retinue_server.catalog import ServedModel
from retinue_server.errors import BundleError, UnavailableError
from retinue_server.loader import Loader
from retinue_server.metrics import Metrics
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import MemoryLimit
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Session, Threads
from retinue_server.runtime.tuning import Tuner

_INSTANCES = 2
_LARGEST_BATCH = 4
_ARENA_BYTES = 5_000_000


class KnowingTuner(Tuner):
    """Knows all models already."""

    def profile(self, *_: object, **__: object) -> Profile:  # type: ignore[override]
        return Profile((1, 2, _LARGEST_BATCH), (0.001,) * 3, lone_seconds=0.001, alone_on_all_cores=True)

    def arena_bytes(self, sha256: str, profile: Profile, measure: Callable[[], int]) -> int:
        assert measure() >= 0
        return _ARENA_BYTES


class Bench:
    """A loader and what is around it."""

    def __init__(self, folder: Path, limit_bytes: int = 0) -> None:
        self.kept = ModelCache(folder / "cache")
        self.machine = Machine(
            Provider(CPU, "cpu", "", ((CPU, {}),)),
            Threads(_INSTANCES, 1),
            self.kept,
            ThreadPools(2),
        )
        self.engine = Engine(_INSTANCES)
        self.metrics = Metrics()
        self.limit = MemoryLimit(limit_bytes, "--memory-limit allows")
        self.loader = Loader(
            self.engine,
            self.machine,
            max_queue_images=8,
            decoders=None,
            tuner=KnowingTuner("fast", self.machine, self.kept),
            limit=self.limit,
            metrics=self.metrics,
        )
        self.bundle = BundleFolder(
            "colour-locator", 1, colour_bundles.locator(folder / "models", "colour-locator")
        )

    def load(self) -> ServedModel:
        return self.loader.load(self.bundle)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list["weakref.ref[Session]"]:
    """Every session that is opened, as long as something holds it."""
    opened: list[weakref.ref[Session]] = []

    class WatchedSession(Session):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            opened.append(weakref.ref(self))

    monkeypatch.setattr(vision_loader, "Session", WatchedSession)
    return opened


def inference_sessions() -> "weakref.WeakSet[onnxruntime.InferenceSession]":
    """The sessions of ONNX Runtime that there are, those that other tests have left included."""
    gc.collect()
    # Not isinstance, which asks the thing itself: some of other packages' warn when they are touched.
    found = (thing for thing in gc.get_objects() if issubclass(type(thing), onnxruntime.InferenceSession))
    return weakref.WeakSet(found)


def test_a_model_is_told_apart_into_weights_arena_and_buffers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    use = bench.load().memory
    files = [path.stat().st_size for path in (tmp_path / "cache").rglob("optimised/*")]
    assert len(files) >= 2
    assert use.weights_bytes == sum(files)
    assert use.arena_bytes == _ARENA_BYTES
    # Pixels, and three probabilities and a heatmap in 32 bits.
    side = colour_bundles.SIDE
    assert use.buffers_bytes == _INSTANCES * _LARGEST_BATCH * (side * side * 3 + 4 * (3 + side * side))
    assert bench.limit.taken_bytes == use.total_bytes


def test_nothing_of_a_model_that_is_unloaded_is_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before = inference_sessions()
    model = bench.load()
    # One that usually runs, one for heatmaps, and one for lone images.
    assert len(inference_sessions() - before) == 3
    bench.metrics.count_call("Classify", model.name, "1", "OK", 0.1)
    count_batch = bench.metrics.batch_counter(model.name, 1)
    count_batch(1, 0.1)
    assert b"colour-locator" in generate_latest(bench.metrics.registry)

    bench.loader.unload(model)
    bench.metrics.forget_model(model.name, model.version)
    # A batch may be counted after its calls are.
    count_batch(1, 0.1)

    assert bench.limit.taken_bytes == 0
    assert b"colour-locator" not in generate_latest(bench.metrics.registry)
    # Although the model is still known here.
    assert not inference_sessions() - before


async def test_a_model_that_is_unloaded_refuses_requests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.load()
    bench.loader.unload(model)
    with pytest.raises(UnavailableError, match="being unloaded"):
        await model.batcher.submit([None])  # type: ignore[list-item]


def test_a_model_that_turns_out_not_to_fit_leaves_nothing(
    tmp_path: Path, sessions: list["weakref.ref[Session]"]
) -> None:
    bench = Bench(tmp_path, limit_bytes=_ARENA_BYTES)
    with pytest.raises(BundleError, match=r"needs about 5 MB \(weights 0, arena 5, buffers 0\)") as refused:
        bench.load()
    assert refused.value.reason == "MEMORY_LIMIT"
    assert bench.limit.taken_bytes == 0
    del refused
    gc.collect()
    assert [session() for session in sessions] == [None]


def test_a_model_that_cannot_fit_is_not_even_opened(
    tmp_path: Path, sessions: list["weakref.ref[Session]"]
) -> None:
    bench = Bench(tmp_path, limit_bytes=100)
    with pytest.raises(BundleError, match="needs at least"):
        bench.load()
    assert sessions == []
    assert not list((tmp_path / "cache").rglob("optimised"))


def test_what_does_not_fit_is_named_among_the_failures_and_the_rest_is_served(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit_bytes=int(1.5 * _ARENA_BYTES))
    second = BundleFolder("red-or-not", 1, colour_bundles.classifier(tmp_path / "models", "red-or-not"))
    catalog = bench.loader.load_all([bench.bundle, second])
    assert [model.name for model in catalog.models] == ["colour-locator"]
    failure = catalog.failures["red-or-not", 1]
    assert failure.reason == "MEMORY_LIMIT"
    # Where it lies is not for callers.
    assert failure.message.startswith("model.onnx needs about 5 MB")
    assert "5 are taken (5 by other models)" in failure.message


def test_a_bundle_that_is_replaced_while_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest may be of one, and its graph of another: nothing of that is served, and nothing is kept."""
    bench = Bench(tmp_path)

    class LateSession(Session):
        def __init__(self, *arguments: object) -> None:
            bench.bundle.path.rename(tmp_path / "before")
            colour_bundles.locator(tmp_path / "models", "colour-locator")
            super().__init__(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(vision_loader, "Session", LateSession)
        with pytest.raises(BundleError, match="was changed while it was loaded") as refused:
            bench.load()
    assert refused.value.reason == "BUNDLE_CHANGED"
    assert bench.limit.taken_bytes == 0
    assert not list((tmp_path / "cache").rglob("optimised"))
    bench.load()
