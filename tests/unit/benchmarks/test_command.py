"""`python -m benchmarks`: what it writes, and what it does where a scenario cannot be measured."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import __main__ as command
from benchmarks import pages, scenarios
from benchmarks.h2load import LoadError


def scenario(name: str) -> SimpleNamespace:
    def run(*, quick: bool) -> dict[str, Any]:
        if name == "tiny":
            raise LoadError("2 of 9 requests failed")
        return {"name": name, "quick": quick}

    return SimpleNamespace(run=run, table=lambda result: f"table of {result['name']}")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "_RESULTS", tmp_path)
    monkeypatch.setattr(scenarios, "load", scenario)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    command.main()


def test_a_result_is_written_beside_the_machines_facts(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "models")

    written = json.loads((results / "models.json").read_text())
    assert (written["name"], written["quick"]) == ("models", False)
    assert {"commit", "processor", "cores", "load_average", "versions"} <= written.keys()
    assert "table of models" in capsys.readouterr().out


def test_a_quick_look_writes_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "--quick", "models")

    assert list(results.iterdir()) == []
    assert "table of models" in capsys.readouterr().out


def test_what_cannot_be_measured_does_not_cost_the_others(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "models", "tiny", "memory")

    assert ended.value.code == 1
    assert {path.name for path in results.iterdir()} == {"models.json", "memory.json"}
    printed = capsys.readouterr()
    assert "2 of 9 requests failed" in printed.out
    assert "not measured: tiny" in printed.err


def test_an_unknown_scenario_is_told_which_there_are(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "everything")

    assert "no scenario 'everything': there are roofline, models" in capsys.readouterr().err
