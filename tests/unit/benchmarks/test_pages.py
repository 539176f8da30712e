"""Results in the READMEs."""

import json
from pathlib import Path

import pytest
from benchmarks import machine, pages, scenarios

RESULT = {
    "commit": "abc",
    "measured_at": "now",
    "processor": "P",
    "cores": 2,
    "versions": {"numpy": "2"},
    "models": 4,
    "requests": 10_000,
    "ready_bytes": 183e6,
    "after_bytes": 214e6,
}
PAGE = """# Title
<!-- measured: memory -->
old
<!-- end -->
between
<!-- machine: memory -->
<!-- end -->
<!-- measured: models -->
old, and there is no result any more
<!-- end -->
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "_RESULTS", tmp_path)
    (tmp_path / "memory.json").write_text(json.dumps(RESULT))
    return tmp_path


def test_each_block_has_the_result_of_its_scenario(results: Path) -> None:
    page = pages.filled(PAGE)

    assert "183 MB when ready, 214 MB after 10,000 requests" in page
    assert f"{machine.sentence(RESULT)}\n<!-- end -->" in page
    assert "between" in page
    assert "old" not in page


def test_a_page_that_is_filled_stays_as_it_is(results: Path) -> None:
    assert pages.filled(pages.filled(PAGE)) == pages.filled(PAGE)


def test_it_says_which_blocks_a_page_has() -> None:
    assert pages.blocks(PAGE) == [("measured", "memory"), ("machine", "memory"), ("measured", "models")]


@pytest.mark.parametrize("name", scenarios.WITHOUT_GPU)
def test_every_scenario_can_be_run_and_shown(name: str) -> None:
    scenario = scenarios.load(name)

    assert callable(scenario.run)
    assert callable(scenario.table)
