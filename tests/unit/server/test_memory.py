"""What models take, what they may take, and how a refusal explains itself."""

from pathlib import Path

import pytest

from retinue_server.errors import BundleError
from retinue_server.runtime import control_group, memory
from retinue_server.runtime.memory import MemoryLimit, MemoryUse, control_group_limit_bytes

_MB = 1_000_000
_MODEL = MemoryUse(98 * _MB, 210 * _MB, 104 * _MB)


def refusal(limit: MemoryLimit, use: MemoryUse, *, measured: bool = True) -> BundleError:
    with pytest.raises(BundleError) as refused:
        limit.check("models/cats/1/model.onnx", use, measured=measured)
    return refused.value


def test_the_total_is_the_sum_of_the_named_parts() -> None:
    assert dict(_MODEL.parts()) == {"weights": 98 * _MB, "arena": 210 * _MB, "buffers": 104 * _MB}
    assert _MODEL.total_bytes == sum(size for _, size in _MODEL.parts()) == 412 * _MB


def test_without_a_limit_everything_fits() -> None:
    MemoryLimit().check("anything", MemoryUse(10**15), measured=True)


def test_a_model_that_fits_to_the_last_byte_is_taken() -> None:
    limit = MemoryLimit(1000, "--memory-limit allows", own_bytes=400)
    limit.check("a", MemoryUse(300, 200, 100), measured=True)
    refusal(limit, MemoryUse(300, 200, 101))


def test_a_refusal_has_the_arithmetic_and_says_what_to_do() -> None:
    limit = MemoryLimit(1_800 * _MB, "--memory-limit allows", own_bytes=120 * _MB)
    limit.take(MemoryUse(1_380 * _MB))
    error = refusal(limit, _MODEL)
    assert error.reason == "MEMORY_LIMIT"
    assert error.message == (
        "models/cats/1/model.onnx needs about 412 MB (weights 98, arena 210, buffers 104), but of the 1,800 MB that "
        "--memory-limit allows, 1,500 are taken (1,380 by other models); raise the limit, serve fewer models or start "
        "fewer --instances."
    )


def test_before_a_model_is_loaded_only_what_is_known_counts() -> None:
    limit = MemoryLimit(200 * _MB, "the control group grants", own_bytes=100 * _MB)
    error = refusal(limit, MemoryUse(98 * _MB, 0, 4 * _MB), measured=False)
    assert (
        "needs at least 102 MB (weights 98, buffers 4, and its arena, which is measured where"
        in error.message
    )
    assert "of the 200 MB that the control group grants, 100 are taken (0 by other models)" in error.message
    limit.check("fits", MemoryUse(98 * _MB, 0, 2 * _MB), measured=False)


def test_what_is_given_back_can_be_taken_again() -> None:
    limit = MemoryLimit(500 * _MB, "--memory-limit allows")
    limit.take(_MODEL)
    assert limit.taken_bytes == _MODEL.total_bytes
    refusal(limit, _MODEL)
    limit.give(_MODEL)
    assert limit.taken_bytes == 0
    limit.check("again", _MODEL, measured=True)


def test_what_models_share_is_counted_with_the_first_and_until_the_last() -> None:
    limit = MemoryLimit(1000 * _MB, "--memory-limit allows")
    first, second = MemoryUse(100 * _MB, shared_bytes=250 * _MB), MemoryUse(50 * _MB, shared_bytes=250 * _MB)
    for use, taken in ((first, 350), (second, 400)):
        limit.check("fits", use, measured=True)
        limit.take(use)
        assert limit.taken_bytes == taken * _MB
    limit.check("to the last byte", MemoryUse(600 * _MB), measured=True)
    limit.check("likewise", MemoryUse(600 * _MB, shared_bytes=250 * _MB), measured=True)
    refusal(limit, MemoryUse(601 * _MB))
    for use, taken in ((first, 300), (second, 0)):
        limit.give(use)
        assert limit.taken_bytes == taken * _MB


@pytest.mark.parametrize(("measured", "about"), [(True, "about"), (False, "at least")])
def test_where_there_is_no_room_for_what_models_share_the_refusal_says_so(measured: bool, about: str) -> None:
    limit = MemoryLimit(400 * _MB, "--memory-limit allows", own_bytes=100 * _MB)
    limit.take(MemoryUse(120 * _MB))
    error = refusal(limit, MemoryUse(100 * _MB, shared_bytes=100 * _MB), measured=measured)
    assert error.message == (
        f"models/cats/1/model.onnx needs {about} 200 MB (weights 100, buffers 0, and 100 that all models without a "
        "manifest work in), but of the 400 MB that --memory-limit allows, 220 are taken (120 by other models); raise "
        "the limit, lower --tensor-memory-limit, serve fewer models or start fewer --instances."
    )


def test_in_front_of_a_gpu_only_device_memory_counts() -> None:
    limit = MemoryLimit(308 * _MB, "--memory-limit allows", on_device=True)
    limit.check("fits", _MODEL, measured=True)
    limit.take(_MODEL)
    assert limit.taken_bytes == 308 * _MB
    assert "needs about 308 MB (weights 98, arena 210), but of the 308 MB" in refusal(limit, _MODEL).message
    limit.take(MemoryUse(shared_bytes=_MB))
    assert limit.taken_bytes == 308 * _MB


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/\n", {".": "1800000\n"}, 1_800_000),
        ("0::/\n", {}, 0),
        ("0::/\n", {".": "max\n"}, 0),
        ("0::/pod/server\n", {".": "9\n", "pod": "5\n", "pod/server": "7\n"}, 5),
        ("0::/pod/server\n", {"pod": "max\n", "pod/server": "7\n"}, 7),
        ("1:name=systemd:/elsewhere\n0::/pod\n", {"pod": "7\n"}, 7),
        # Control groups of the first version, which are told otherwise.
        ("5:memory:/pod\n", {"pod": "7\n"}, 0),
        # What lies outside of the process's own namespace.
        ("0::/../other\n", {".": "3\n"}, 3),
    ],
)
def test_the_limit_of_a_control_group_is_the_least_around_the_process(
    line: str, limits: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(line)
    root = tmp_path / "groups"
    monkeypatch.setattr(control_group, "_OWN", tmp_path / "cgroup")
    monkeypatch.setattr(control_group, "_ROOT", root)
    for group, limit in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        (root / group / "memory.max").write_text(limit)
    assert control_group_limit_bytes() == expected


def test_a_machine_without_control_groups_has_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_group, "_OWN", tmp_path / "none")
    assert control_group_limit_bytes() == 0


def test_a_limit_that_is_given_goes_before_the_control_group_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "control_group_limit_bytes", lambda: 1)
    assert "of the 0 MB that the control group grants" in refusal(memory.process_limit(0), _MODEL).message
    memory.process_limit(10**15).check("fits", _MODEL, measured=True)
    assert "of the 5 MB that --memory-limit allows" in refusal(memory.process_limit(5 * _MB), _MODEL).message


def test_what_the_process_takes_already_counts() -> None:
    alone = memory.process_limit(0).taken_bytes
    assert 10 * _MB < alone < 10_000 * _MB
    assert memory.process_limit(0, processes=3).taken_bytes == pytest.approx(3 * alone, rel=0.05)
