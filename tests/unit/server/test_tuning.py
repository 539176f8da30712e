import json
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from structlog.testing import capture_logs

from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.providers import CPU, CUDA, Provider
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tuning import Tune, Tuner

SHA256 = "0123456789abcdef" * 4
SHAPE = (4, 6, 3)
ON_CPU = Provider(CPU, "cpu", "", ((CPU, {}),))
ON_GPU = Provider(CUDA, "cuda", "", ((CUDA, {}), (CPU, {})))
TWO_INSTANCES = Threads(2, 1)


class Runs:
    """Notes the sizes of what it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: npt.NDArray[np.uint8]) -> None:
        assert images.shape[1:] == SHAPE
        self.sizes.append(len(images))


@pytest.fixture
def kept(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path)


def tuned(
    kept: ModelCache,
    run: Runs,
    tune: Tune = "fast",
    *,
    alone: Runs | None = None,
    provider: Provider = ON_CPU,
    threads: Threads = TWO_INSTANCES,
) -> Profile:
    tuner = Tuner(tune, Machine(provider, threads, kept), kept)
    return tuner.profile(SHA256, SHAPE, run, alone, on_refusal=lambda size, error: None)


def test_a_model_is_measured_once_a_machine(kept: ModelCache) -> None:
    first, second = Runs(), Runs()
    profile = tuned(kept, first)
    assert len(first.sizes) > 2
    assert tuned(kept, second) == profile
    assert second.sizes == []


@pytest.mark.parametrize(
    "changed", [{"provider": ON_GPU}, {"threads": Threads(1, 1)}, {"threads": Threads(2, 2)}], ids=str
)
def test_another_provider_or_other_threads_are_another_profile(
    changed: dict[str, object], kept: ModelCache
) -> None:
    tuned(kept, Runs())
    again = Runs()
    tuned(kept, again, **changed)  # type: ignore[arg-type]
    assert max(again.sizes) > 1


def test_to_tune_in_full_measures_anew(kept: ModelCache) -> None:
    tuned(kept, Runs())
    again = Runs()
    tuned(kept, again, "full")
    assert max(again.sizes) > 1


def test_not_to_tune_measures_nothing_and_uses_what_is_known(kept: ModelCache) -> None:
    run = Runs()
    profile = tuned(kept, run, "off")
    assert (profile.batch_sizes, set(run.sizes)) == ((1,), {1})
    assert profile.images_per_second > 0
    known = tuned(kept, Runs())
    assert tuned(kept, Runs(), "off") == known


class Slow(Runs):
    """Takes its time over each batch."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.matrix = np.ones((rounds, 1000))

    def __call__(self, images: npt.NDArray[np.uint8]) -> None:
        super().__call__(images)
        self.matrix @ self.matrix.T


@pytest.mark.parametrize(("on_one", "on_all", "pays"), [(400, 20, True), (20, 400, False)])
def test_a_lone_image_takes_all_cores_where_that_pays(
    on_one: int, on_all: int, pays: bool, kept: ModelCache
) -> None:
    profile = tuned(kept, Slow(on_one), alone=Slow(on_all))
    assert profile.alone_on_all_cores is pays
    assert profile.lone_seconds > 0
    assert tuned(kept, Runs()) == profile


class Crowded(Runs):
    """Takes some milliseconds, and more while another runs."""

    def __init__(self, alone_seconds: float, together_seconds: float) -> None:
        super().__init__()
        self._seconds = alone_seconds, together_seconds
        self._running = threading.Semaphore(1)

    def __call__(self, images: npt.NDArray[np.uint8]) -> None:
        first = self._running.acquire(blocking=False)
        time.sleep(len(images) * self._seconds[0 if first else 1])
        if first:
            self._running.release()


@pytest.mark.parametrize(
    ("run", "alone", "instances", "all_cores"),
    [
        # Two at once are twice as fast as one after the other, and one on all cores is no faster.
        (Crowded(0.004, 0.004), Crowded(0.004, 0.004), 0, False),
        # Two at once are in each other's way.
        (Crowded(0.004, 0.05), None, 1, False),
        # One on all cores is more than twice as fast.
        (Crowded(0.008, 0.008), Crowded(0.001, 0.001), 1, True),
    ],
    ids=["as many as there are threads", "one at a time", "all cores for each"],
)
def test_in_full_the_best_way_to_run_under_load_is_found(
    run: Runs, alone: Runs | None, instances: int, all_cores: bool, kept: ModelCache
) -> None:
    profile = tuned(kept, run, "full", alone=alone)
    assert (profile.instances, profile.all_cores) == (instances, all_cores)
    assert tuned(kept, Runs()) == profile


def test_a_goal_bounds_the_batches_of_what_is_known_too(kept: ModelCache, tmp_path: Path) -> None:
    known = Profile((1, 2, 4), (0.002, 0.003, 0.004), lone_seconds=0.001)
    tuned(kept, Runs())
    (path,) = tmp_path.glob("*/profile-*.json")
    path.write_text(json.dumps(asdict(known)))
    assert tuned(kept, Runs()) == known
    tuner = Tuner("fast", Machine(ON_CPU, TWO_INSTANCES, kept), kept, goal_seconds=0.006)
    profile = tuner.profile(SHA256, SHAPE, Runs(), None, on_refusal=lambda size, error: None)
    assert profile.batch_sizes == (1, 2)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"batch_sizes": 4}', '{"batch_sizes": [1], "other": 1}']
)
def test_a_profile_that_cannot_be_read_is_measured_anew(
    content: str, kept: ModelCache, tmp_path: Path
) -> None:
    tuned(kept, Runs())
    (path,) = tmp_path.rglob("profile-*.json")
    path.write_text(content)
    again = Runs()
    with capture_logs() as events:
        tuned(kept, again)
    assert max(again.sizes) > 1
    assert [event["event"] for event in events] == ["profile_unreadable"]
    assert json.loads(path.read_text())["batch_sizes"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_sizes": []},
        {"batch_sizes": [0, 1]},
        {"batch_sizes": ["a"]},
        {"batch_seconds": [float("nan")]},
        {"lone_seconds": None},
        {"instances": -1},
    ],
)
def test_a_profile_that_says_what_cannot_be_is_measured_again(
    kept: ModelCache, tmp_path: Path, wrong: dict[str, object]
) -> None:
    tuned(kept, Runs())
    (path,) = tmp_path.rglob("profile-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    with capture_logs() as events:
        assert tuned(kept, Runs()).batch_sizes[0] == 1
    assert [event["event"] for event in events] == ["profile_unreadable"]


def test_one_gpu_s_profile_is_not_another_setting_s(kept: ModelCache) -> None:
    tuned(kept, Runs(), provider=ON_GPU)
    limited = Provider(CUDA, "cuda", "", ((CUDA, {"gpu_mem_limit": "1000000"}), (CPU, {})))
    again = Runs()
    tuned(kept, again, provider=limited)
    assert again.sizes


def test_a_profile_that_cannot_be_kept_is_used_all_the_same(
    kept: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(kept, "keep", full)
    with capture_logs() as events:
        assert tuned(kept, Runs()).batch_sizes
    assert [event["event"] for event in events] == ["profile_not_kept"]
