"""The one run that there is on a GPU, rehearsed on a CPU: whatever can go wrong here must not go wrong there."""

from pathlib import Path

import pytest
from benchmarks import gpu, gpu_load
from tests import gpu_stand_in


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_runs(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stand_in.install(monkeypatch)
    monkeypatch.setattr(gpu_load, "_CALLERS", 2)
    monkeypatch.setattr(gpu_load, "_IMAGES_A_REQUEST", 4)
    result = gpu.run(
        quick=True, provider=gpu_stand_in.provider(), models=colour_models, server_provider="cpu"
    )
    assert result["failed"] == result["left_out"] == []
    assert {kind: len(rows) for kind, rows in result.items() if isinstance(rows, list)} == {
        "left_out": 0,
        "failed": 0,
        "bare": 3,
        "served": 5,
        "grpc": 1,
        "switching": 2,
        "options": 8,
    }
    for row in result["served"]:
        assert row["apart_from_cpu"] < 1e-3
        assert min(row["raw"], row["jpeg"]) > 0
    table = gpu.table(result)
    assert "colour-classifier over gRPC from JPEG" in table
    assert "FAILED" not in table


def test_what_fails_or_comes_too_late_costs_the_other_parts_nothing() -> None:
    def fail() -> gpu.Result:
        raise ValueError("no such thing")

    parts, late = gpu._Parts(1000), gpu._Parts(-1)
    parts.add("served", "one", fail)
    parts.add("bare", "two", lambda: {"rates": {}})
    late.add("bare", "three", lambda: {"rates": {}})
    assert parts.result["failed"] == ["served, one: ValueError: no such thing"]
    assert parts.result["bare"] == [{"what": "two", "rates": {}}]
    assert late.result["left_out"] == ["bare, three"]
