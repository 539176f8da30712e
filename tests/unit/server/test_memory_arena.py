"""What a model's arenas take is measured once for each way to run it."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.profile import Profile
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tuning import Tune, Tuner

_SHA256 = "0123456789abcdef" * 4
_PROFILE = Profile((1, 2, 4), (0.001, 0.002, 0.003), lone_seconds=0.001)


@pytest.fixture
def kept(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path)


def told(
    kept: ModelCache, size_bytes: int, profile: Profile = _PROFILE, tune: Tune = "fast", instances: int = 2
) -> int:
    machine = Machine(Provider(CPU, "cpu", "", ((CPU, {}),)), Threads(instances, 1), kept)
    return Tuner(tune, machine, kept).arena_bytes(_SHA256, profile, lambda: size_bytes)


def test_it_is_remembered(kept: ModelCache) -> None:
    assert told(kept, 100) == 100
    assert told(kept, 200) == 100


@pytest.mark.parametrize(
    "other",
    [
        replace(_PROFILE, batch_sizes=(1, 2), batch_seconds=(0.001, 0.002)),
        replace(_PROFILE, alone_on_all_cores=True),
        replace(_PROFILE, instances=1),
        replace(_PROFILE, all_cores=True),
    ],
)
def test_another_way_to_run_it_is_measured(kept: ModelCache, other: Profile) -> None:
    told(kept, 100)
    assert told(kept, 200, other) == 200
    assert told(kept, 300) == 100


def test_more_instances_are_measured(kept: ModelCache) -> None:
    told(kept, 100)
    assert told(kept, 200, instances=4) == 200


def test_a_full_tuning_measures_anew(kept: ModelCache) -> None:
    told(kept, 100)
    assert told(kept, 200, tune="full") == 200
    assert told(kept, 300) == 200


@pytest.mark.parametrize(
    "content", ["", "{", '"many"', "null", "true", "-5", "1e999", "99999999999999999999"]
)
def test_what_cannot_be_read_is_measured_again(kept: ModelCache, tmp_path: Path, content: str) -> None:
    told(kept, 100)
    (path,) = tmp_path.rglob("arena-*.json")
    path.write_text(content)
    with capture_logs():
        assert told(kept, 200) == 200
    assert told(kept, 300) == 200
