from pathlib import Path

import pytest
from tests.gpu_stand_in import StandInCuda

from retinue_server.errors import StartupError
from retinue_server.runtime import control_group, providers
from retinue_server.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    Provider,
    ProviderOptions,
    choose,
    tensorrt_options,
)

GIB = 1 << 30
GPU_BUILD = (TENSORRT, CUDA, CPU)
CPU_BUILD = ("AzureExecutionProvider", CPU)


class Machine:
    """A machine on which some providers run; notes which were tried and with which options."""

    def __init__(self, *working: str) -> None:
        self._working = working
        self.tried: list[tuple[str, ProviderOptions]] = []

    def why_not(self, name: str, options: ProviderOptions) -> str:
        self.tried.append((name, options))
        return "" if name in self._working else "the driver is too old"


def chosen(
    requested: str,
    machine: Machine,
    available: tuple[str, ...] = GPU_BUILD,
    memory_limit_bytes: int = 0,
    devices: str = "0",
    tf32: bool = False,
) -> Provider:
    return choose(
        requested,  # type: ignore[arg-type]
        gpu_devices=devices,
        gpu_memory_limit_bytes=memory_limit_bytes,
        cache_folder=Path("/cache"),
        tf32=tf32,
        available=available,
        why_not=machine.why_not,
    )


def names(provider: Provider) -> list[str]:
    return [name for name, _ in provider.chain]


def test_the_cpu_is_taken_where_it_is_asked_for_and_nothing_is_tried() -> None:
    machine = Machine(TENSORRT, CUDA)
    provider = chosen("cpu", machine)
    assert provider == Provider(CPU, "cpu", "", ((CPU, {}),))
    assert not provider.on_gpu
    assert machine.tried == []


def test_auto_takes_cuda_where_it_works() -> None:
    machine = Machine(TENSORRT, CUDA)
    provider = chosen("auto", machine, devices="3")
    assert (provider.name, provider.requested, provider.fallback_reason) == (CUDA, "auto", "")
    assert provider.on_gpu
    assert provider.devices == (3,)
    # What a graph has and CUDA has not runs on the CPU. Building TensorRT engines takes minutes: only on request.
    assert names(provider) == [CUDA, CPU]
    assert machine.tried == [provider.chain[0]]


def test_every_device_is_tried_and_gets_a_chain_of_its_own() -> None:
    machine = Machine(TENSORRT, CUDA)
    provider = chosen("tensorrt", machine, devices="2,0,2")
    assert provider.devices == (2, 0)
    assert [(name, options["device_id"]) for name, options in machine.tried] == [
        (TENSORRT, "2"),
        (TENSORRT, "0"),
    ]
    more = {CUDA: {"use_tf32": "1", "device_id": "7"}, TENSORRT: {"trt_fp16_enable": "1"}}
    tensorrt, cuda, cpu = provider.chain_on(0, more, {CUDA: {"device_id": "8"}})
    assert tensorrt == (TENSORRT, {**provider.chain[0][1], "device_id": "0", "trt_fp16_enable": "1"})
    assert cuda == (CUDA, {**provider.chain[1][1], "device_id": "8", "use_tf32": "1"})
    assert cpu == (CPU, {})


def test_a_device_that_does_not_work_is_not_left_out_unsaid() -> None:
    class OneWorks(Machine):
        def why_not(self, name: str, options: ProviderOptions) -> str:
            return "" if options["device_id"] == "0" else "there is no such device"

    with pytest.raises(StartupError, match="there is no such device"):
        chosen("cuda", OneWorks(), devices="0,1")
    assert chosen("auto", OneWorks(), devices="0,1").name == CPU


def test_all_devices_are_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.cudart, "load", StandInCuda)
    assert chosen("cuda", Machine(CUDA), devices="all").devices == (0, 1)
    monkeypatch.setattr(providers.cudart, "load", lambda: None)
    assert chosen("auto", Machine(), devices="all").fallback_reason == f"{CUDA}: the driver is too old"


def test_auto_falls_back_where_cuda_does_not_work() -> None:
    provider = chosen("auto", Machine())
    assert names(provider) == [CPU]
    assert provider.fallback_reason == f"{CUDA}: the driver is too old"
    assert provider.requested == "auto"


def test_auto_falls_back_where_the_installation_has_no_cuda() -> None:
    machine = Machine(CUDA)
    provider = chosen("auto", machine, CPU_BUILD)
    assert provider.name == CPU
    assert "install retinue-server[gpu]" in provider.fallback_reason
    assert machine.tried == []


@pytest.mark.parametrize("requested", ["cuda", "tensorrt"])
@pytest.mark.parametrize(
    ("available", "reason"),
    [(GPU_BUILD, "the driver is too old"), (CPU_BUILD, "install retinue-server[gpu]")],
)
def test_a_gpu_that_was_asked_for_and_cannot_be_had_is_one_sentence(
    requested: str, available: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(StartupError) as refused:
        chosen(requested, Machine(), available)
    message = refused.value.message
    assert f"--provider {requested} cannot run here" in message
    assert reason in message
    assert "--provider auto" in message
    assert "\n" not in message


def test_cuda_is_taken_where_it_is_asked_for() -> None:
    provider = chosen("cuda", Machine(CUDA))
    assert (provider.name, provider.requested, provider.fallback_reason) == (CUDA, "cuda", "")


def test_tensorrt_comes_before_cuda_before_the_cpu_and_keeps_its_engines() -> None:
    provider = chosen("tensorrt", Machine(TENSORRT), memory_limit_bytes=2 * GIB, devices="1")
    assert names(provider) == [TENSORRT, CUDA, CPU]
    options = provider.chain[0][1]
    assert options["device_id"] == provider.chain[1][1]["device_id"] == "1"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/cache/tensorrt"
    assert options["trt_max_workspace_size"] == str(2 * GIB)


def test_tensorrt_is_not_replaced_by_cuda_unasked() -> None:
    with pytest.raises(StartupError, match="--provider tensorrt"):
        chosen("tensorrt", Machine(CUDA))


def test_cuda_takes_memory_as_asked_for_and_no_more_than_the_limit() -> None:
    limited = chosen("cuda", Machine(CUDA), memory_limit_bytes=3 * GIB, devices="2").chain[0][1]
    assert limited["arena_extend_strategy"] == "kSameAsRequested"
    assert limited["gpu_mem_limit"] == str(3 * GIB)
    assert limited["device_id"] == "2"
    # Parity with PyTorch is measured in full precision.
    assert limited["use_tf32"] == "0"
    assert chosen("cuda", Machine(CUDA), tf32=True).chain[0][1]["use_tf32"] == "1"
    assert "gpu_mem_limit" not in chosen("cuda", Machine(CUDA)).chain[0][1]
    assert "trt_max_workspace_size" not in chosen("tensorrt", Machine(TENSORRT)).chain[0][1]


def test_the_folder_of_tensorrts_engines_is_made_before_it_is_tried(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tensorrt"
    # What is missing on a machine without a GPU is told as before.
    assert "the driver" in providers._runs_here("NoneExecutionProvider", tensorrt_options(0, 0, folder))
    assert folder.is_dir()
    assert "the driver" in providers._runs_here("NoneExecutionProvider", tensorrt_options(0, 0, folder))


def test_a_folder_that_cannot_be_made_is_named_with_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "tensorrt"
    with pytest.raises(StartupError) as refused:
        choose(
            "tensorrt",
            gpu_devices="0",
            gpu_memory_limit_bytes=0,
            cache_folder=folder.parent,
            available=GPU_BUILD,
        )
    assert f"cannot be kept in {folder}: Not a directory" in refused.value.message
    assert "--cache-folder" in refused.value.message


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [(8, None, 8), (8, 2.0, 2), (2, 16.0, 2), (8, 0.5, 1), (8, 1.5, 2), (1, None, 1)],
)
def test_cores_are_those_of_the_affinity_and_the_quota(
    affinity: int, quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda pid: set(range(affinity)))
    monkeypatch.setattr(providers, "_cgroup_cpu_quota", lambda: quota)
    assert providers.available_cores() == expected


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 8),
        ({".": "max 100000"}, 8),
        ({"slice": "200000 100000"}, 2),
        ({"slice": "300000 100000", "slice/unit": "max 1"}, 3),
    ],
)
def test_the_quota_is_the_least_around_the_process(
    quotas: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text("0::/slice/unit\n")
    for group, text in quotas.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(text)
    monkeypatch.setattr(control_group, "_OWN", tmp_path / "own")
    monkeypatch.setattr(control_group, "_ROOT", tmp_path)
    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert providers.available_cores() == expected
