"""`retinue score` against real servers: every file once, whatever the server goes through."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco
from tests import odd_bundles, pictures
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

_LABELS = ("red", "green", "blue")
_FILES = 90
_BAD = {
    "b/empty.png": b"",
    "b/text.jpg": b"no image",
    "b/truncated.png": pictures.png(pictures.RED, 200, 200)[:60],
}

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures in three folders, whose names say their colour, and one file that is none."""
    made = tmp_path_factory.mktemp("pictures")
    for index in range(_FILES):
        label = _LABELS[index % 3]
        path = made / "abc"[index % 3] / f"{index:03}-{label}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures.png(pictures.COLOURS[label], 20 + index, 10))
    (made / "notes.txt").write_text("not an image, and not asked about")
    return made


@pytest.fixture
def bad_folder(folder: Path) -> Iterator[Path]:
    """The same with files that cannot be read."""
    for name, content in _BAD.items():
        (folder / name).write_bytes(content)
    yield folder
    for name in _BAD:
        (folder / name).unlink()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `retinue score ... --out tmp_path/results.parquet`."""
    program = str(Path(sys.executable).parent / "retinue")
    processes = []

    def run(server: ServerProcess, folder: Path, task: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [program, "score", str(folder), "--task", task, "--out", str(tmp_path / "results.parquet")]
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**os.environ, "RETINUE_SERVER": server.grpc_address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / "results.parquet").to_pylist()


def _paths(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*g"))]


def _best_labels(rows: list[dict[str, Any]]) -> list[str]:
    return [max(row["classes"], key=lambda entry: entry["score"])["label"] for row in rows]


def _expect_each_once(rows: list[dict[str, Any]], folder: Path) -> None:
    assert [row["path"] for row in rows] == _paths(folder)
    assert _best_labels(rows) == [Path(row["path"]).stem.partition("-")[2] for row in rows]


def test_a_folder_is_classified(
    start: Start, colour_server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    code, stdout, stderr = _finished(start(colour_server, folder, "classify"))
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"scored {_FILES} of {_FILES} images in ")
    rows = _rows(tmp_path)
    _expect_each_once(rows, folder)
    assert {row["model"] for row in rows} == {"colour-classifier"}
    assert [(row["width"], row["height"]) for row in rows] == [
        (20 + int(Path(row["path"]).name[:3]), 10) for row in rows
    ]


def test_a_folder_is_searched_for_objects(
    start: Start, colour_server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    assert _finished(start(colour_server, folder, "detect"))[0] == 0
    for row in _rows(tmp_path):
        (found,) = row["detections"]
        assert row["path"].endswith(f"{found['label']}.png")
        box = [found[edge] for edge in ("x_min", "y_min", "x_max", "y_max")]
        assert box == [0, 0, row["width"] / 2, row["height"]]


def test_the_masks_of_a_folder_are_those_of_its_pictures(
    start: Start, colour_server: ServerProcess, tmp_path: Path
) -> None:
    made = tmp_path / "pictures"
    made.mkdir()
    picture, classes = pictures.quarters(64, 32)
    for orientation in (1, 6, 8):
        data = pictures.turned_file(picture, orientation, "PNG")
        (made / f"{orientation}.png").write_bytes(data)
    assert _finished(start(colour_server, made, "segment"))[0] == 0
    for row in _rows(tmp_path):
        assert (row["width"], row["height"]) == (64, 32)
        areas = {area["class_id"]: area["area_pixels"] for area in row["areas"]}
        for mask in row["masks"]:
            size_and_counts = {"size": [row["height"], row["width"]], "counts": mask["counts"].encode()}
            assert coco.area(size_and_counts) == areas[mask["class_id"]]
        assert sum(areas.values()) == classes.size


def test_files_that_cannot_be_read_are_listed_counted_and_in_the_table(
    start: Start, colour_server: ServerProcess, bad_folder: Path, tmp_path: Path
) -> None:
    code, stdout, stderr = _finished(start(colour_server, bad_folder, "classify"))
    assert code == 1
    assert f"scored {_FILES} of {_FILES + 3} images" in stdout
    assert "3 failed (2 IMAGE_UNDECODABLE, 1 IMAGE_EMPTY)" in stdout
    rows = _rows(tmp_path)
    assert [row["path"] for row in rows] == _paths(bad_folder)
    failed = {row["path"]: row["error_reason"] for row in rows if row["error_reason"]}
    assert set(failed) == set(_BAD)
    for path, reason in failed.items():
        assert f"{path}: {reason}: " in stderr


def test_a_small_queue_is_not_overrun(
    start: Start, small_server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    process = start(small_server, folder, "classify", "--model", "colour-classifier", "--max-in-flight", 4000)
    assert _finished(process)[0] == 0
    _expect_each_once(_rows(tmp_path), folder)


def test_refusals_of_a_busy_server_cost_no_row(
    start: Start, small_server: ServerProcess, tmp_path: Path
) -> None:
    made = tmp_path / "grey"
    made.mkdir()
    for index in range(400):
        # A little light makes the slow classifier take a few milliseconds for each.
        Image.fromarray(np.full((8, 8, 3), 4, np.uint8)).save(made / f"{index:03}.png")
    process = start(small_server, made, "classify", "--model", "slow-classifier", "--max-in-flight", 4000)
    code, _, stderr = _finished(process)
    assert (code, stderr) == (0, "")
    assert len(_rows(tmp_path)) == 400
    page = MetricsPage(small_server.http_url)
    refused = page.total("retinue_requests_total", model="slow-classifier", code="RESOURCE_EXHAUSTED")
    assert refused > 0


def test_a_server_that_is_killed_and_started_again_costs_no_row(start: Start, tmp_path: Path) -> None:
    models = tmp_path / "models"
    odd_bundles.slow_classifier(models, least_level=2)
    made = tmp_path / "colours"
    made.mkdir()
    for index in range(600):
        label = _LABELS[index % 3]
        (made / f"{index:03}-{label}.png").write_bytes(pictures.png(pictures.COLOURS[label]))
    with running_server(models) as first:
        process = start(first, made, "classify", "--max-in-flight", 16)

        def answered() -> float:
            return MetricsPage(first.http_url).total("retinue_images_total", outcome="answered")

        wait_until(lambda: answered() >= 32, "some images to be scored")
        first.process.kill()
        first.wait()
        assert process.poll() is None
        assert not (tmp_path / "results.parquet" / "_summary.json").exists()
    port = first.grpc_address.rpartition(":")[2]
    with running_server(models, "--grpc-port", port):
        code, stdout, stderr = _finished(process)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("scored 600 of 600 images")
    _expect_each_once(_rows(tmp_path), made)


def test_images_on_which_the_engine_fails_are_rows_and_the_rest_is_scored(
    start: Start, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    odd_bundles.failing_classifier(models)
    made = tmp_path / "colours"
    made.mkdir()
    for index in range(40):
        label = "white" if index in (7, 21) else "red"
        colour = pictures.WHITE if label == "white" else pictures.RED
        (made / f"{index:02}-{label}.png").write_bytes(pictures.png(colour))
    with running_server(models) as server:
        code, _, _ = _finished(start(server, made, "classify"))
    assert code == 1
    rows = _rows(tmp_path)
    assert [row["path"] for row in rows] == _paths(made)
    assert [row["path"] for row in rows if row["error_reason"]] == ["07-white.png", "21-white.png"]


def test_an_unreachable_server_and_an_unknown_model_are_said_at_once(
    start: Start, colour_server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    code, _, stderr = _finished(start(colour_server, folder, "classify", "--server", "127.0.0.1:1"))
    assert (code, "No Retinue server answers at 127.0.0.1:1" in stderr) == (2, True)
    code, _, stderr = _finished(start(colour_server, folder, "classify", "--model", "nope"))
    assert (code, "colour-classifier" in stderr) == (2, True)
    assert not list(tmp_path.glob("results.parquet*"))
