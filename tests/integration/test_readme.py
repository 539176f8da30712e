"""The README is always true: its commands run and print what it shows, its Python runs, its figures are measured."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmarks import pages
from benchmarks.scenarios import WITHOUT_GPU
from PIL import Image
from tests import readme
from tests.server_process import ROOT, ServerProcess
from tests.system_packages import require

TEXT = readme.README.read_text(encoding="utf-8")
SESSION = readme.session()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PICTURE = "docs/images/detections.png"
PIXELS_THAT_MAY_DIFFER = 0.005

# What differs from machine to machine: times, the measured batch and memory of a model, the length of a bar, and the
# last digits of a score in JSON.
MEASURED = re.compile(
    r"\d+\.\d ms \(.*\)|\d+ +\d+\.\d MiB \([\d. +]+\)$|█.*$|\"timing\":\{.*?\}|(?<=\"score\":\d\.\d\d)\d+",
    re.MULTILINE,
)
# How far a score, a share, an edge of a box in pixels and an area in pixels may be from what is shown.
TOLERANCES: dict[str, dict[str, float]] = {
    r"0\.\d{3}": {"abs": 0.01},
    r"\d+\.\d%": {"abs": 1},
    r"\d+\.\d": {"abs": 2},
    r"\d{1,3}(,\d{3})+": {"rel": 0.02},
}

# Lines that need a machine of their own, and what runs them.
RUN_ELSEWHERE = {
    "make serve": "tests/integration/test_fresh_clone.py",
    "make test": ".ci/run",
    "docker compose up": "tests/integration/test_containers.py",
}
# What the README shows of what `make bench` measures; the page in benchmarks shows all of it.
SHOWN = {"models", "comparison", "startup", "memory"}


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def line_with(words: str) -> str:
    """The one line of a shell block with these words in it."""
    (line,) = [line for block in blocks("sh") for line in block.splitlines() if words in line]
    return line


def lines(output: str) -> list[list[str]]:
    """The words of each line, without what was measured."""
    return [line.split() for line in MEASURED.sub("", output).strip().splitlines()]


def tolerance(word: str) -> dict[str, float] | None:
    return next((found for form, found in TOLERANCES.items() if re.fullmatch(form, word)), None)


def number(word: str) -> float | str:
    """The number that a word is, or the word where it is none that has a tolerance."""
    return word if tolerance(word) is None else float(word.rstrip("%").replace(",", ""))


def about(word: str) -> object:
    """What equals any number close enough to that of the word, or the word itself."""
    within = tolerance(word)
    return word if within is None else pytest.approx(number(word), **within)


@pytest.mark.parametrize(("command", "shown"), SESSION)
def test_a_command_prints_what_the_readme_shows(
    command: str, shown: str, server: ServerProcess, tmp_path: Path
) -> None:
    if command.startswith("curl"):
        require("curl")

    printed = readme.run(command.replace(PICTURE, str(tmp_path / "drawn.png")), server)

    if command.endswith(
        " models"
    ):  # what a bundle is and reaches is written in it, and is the same everywhere
        assert lines(printed) == lines(shown)
    else:
        assert [[*map(number, line)] for line in lines(printed)] == [
            [*map(about, line)] for line in lines(shown)
        ]


def test_the_picture_is_the_one_that_the_session_draws(server: ServerProcess, tmp_path: Path) -> None:
    (command,) = [command for command, _ in SESSION if PICTURE in command]

    readme.run(command.replace(PICTURE, str(tmp_path / "drawn.png")), server)

    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"), np.int16)
        for path in (tmp_path / "drawn.png", ROOT / PICTURE)
    )
    assert drawn.shape == shown.shape
    # Letters may be of another font.
    assert np.mean(np.abs(drawn - shown).max(axis=2) > 32) < PIXELS_THAT_MAY_DIFFER


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code: str, server: ServerProcess, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code.replace("localhost:8001", server.grpc_address))

    readme.run(f"python {script}")


def test_every_other_line_is_run_by_a_test_too() -> None:
    found = {line for block in blocks("sh") for line in block.splitlines()}

    run_here = {
        line_with(words) for words in ("retinue score", "retinue bench", "retinue-export torchvision")
    }
    assert found == {*RUN_ELSEWHERE, *run_here}
    assert all((ROOT / where).exists() for where in RUN_ELSEWHERE.values())


def test_a_folder_is_scored(server: ServerProcess, tmp_path: Path) -> None:
    table = tmp_path / "results.parquet"

    readme.run(line_with("retinue score").replace("results.parquet", str(table)), server)

    assert pq.read_table(table).num_rows == len(list((ROOT / "examples").glob("*.jpg")))


def test_a_server_is_measured(server: ServerProcess, tmp_path: Path) -> None:
    line = line_with("retinue bench").replace("bench.json", str(tmp_path / "bench.json"))

    readme.run(f"{line} --seconds 0.5 --warm-up 0.1", server)

    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 3


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle(tmp_path: Path) -> None:
    import torch

    from retinue_export import torchvision_models

    torch.manual_seed(0)
    torch.save(torchvision_models.build_network("resnet18", 3).state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")

    readme.run(line_with("retinue-export torchvision"), folder=tmp_path)

    manifest = json.loads((tmp_path / "models" / "my-model" / "1" / "manifest.json").read_text())
    assert manifest["labels"] == ["red", "green", "blue"]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.parent.name)
def test_the_benchmark_figures_are_the_measured_ones(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert pages.filled(text) == text, "python -m benchmarks --pages brings the pages up to date"


def test_every_scenario_has_its_place() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")

    assert set(pages.blocks(page)) == {
        (kind, name) for kind in ("measured", "machine") for name in WITHOUT_GPU
    }
    assert set(pages.blocks(TEXT)) == {("measured", name) for name in SHOWN}


def test_the_way_of_a_request_is_the_same_in_both_places() -> None:
    def way(page: Path) -> list[str]:
        text = page.read_text(encoding="utf-8")
        return [Path(link).name for link in re.findall(r"^\d\. \[.*?\]\((.*?)\)", text, re.MULTILINE)]

    assert len(way(readme.README)) == 6
    assert way(readme.README) == way(ROOT / "docs" / "architecture.md")


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (readme.README, ROOT / "docs" / "architecture.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
