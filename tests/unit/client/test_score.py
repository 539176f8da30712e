"""What a scoring job writes for each image, and what it refuses before it begins."""

import hashlib
import itertools
import json
import re
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.unit.client.score_output import image_paths, part, rows
from typer.testing import CliRunner

from retinue_client._errors import ImageError
from retinue_client._score.sources import tree
from retinue_client.cli._app import app

runner = CliRunner()
TASKS = ("classify", "detect", "segment")


def spec(item):
    return pa.list_(pa.field("element", pa.struct(item), nullable=False))


def required(name, kind):
    return pa.field(name, kind, nullable=False)


CLASS = [required("class_id", pa.int32()), required("label", pa.string())]
RESULTS = {
    "classify": [pa.field("classes", spec([*CLASS, required("score", pa.float32())]))],
    "detect": [
        pa.field(
            "detections",
            spec([required(n, pa.float32()) for n in ("x_min", "y_min", "x_max", "y_max", "score")] + CLASS),
        )
    ],
    "segment": [
        pa.field("areas", spec([*CLASS, required("area_pixels", pa.int64())])),
        pa.field("masks", spec([*CLASS, required("counts", pa.string())])),
    ],
}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_exact_schema(score, folder, tmp_path, task):
    assert score(folder, task=task).exit_code == 0
    schema = pq.read_schema(part(tmp_path))
    expected = pa.schema(
        [
            required("path", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            *RESULTS[task],
            pa.field("model", pa.string()),
            pa.field("version", pa.int32()),
            pa.field("error_reason", pa.string()),
            pa.field("error_message", pa.string()),
        ]
    )
    assert schema.equals(expected)
    assert schema.metadata[b"retinue.task"] == task.encode()


def test_every_file_has_one_row_in_the_order_of_its_path(score, folder, tmp_path):
    result = score(folder)
    assert result.exit_code == 0
    table = rows(tmp_path)
    assert [row["path"] for row in table] == image_paths(folder)
    for row in table:
        assert row["classes"][0]["label"] == row["path"].partition("/")[2]
        assert (row["model"], row["version"]) == ("a-classifier", 3)
        assert (row["error_reason"], row["error_message"]) == (None, None)
    assert result.stdout.startswith("scored 100 of 100 images in ")
    assert "latency p50" in result.stdout
    assert sorted(path.name for path in (tmp_path / "results.parquet").iterdir()) == [
        *("_journal.jsonl", "_lock", "_report.html", "_summary.json", "part-000000.parquet")
    ]


@pytest.mark.parametrize(("out", "task"), [("r", "classify"), ("r.jsonl", "classify"), ("r.json", "detect")])
def test_results_may_be_named_from_where_one_is(score, folder, tmp_path, monkeypatch, out, task):
    monkeypatch.chdir(tmp_path)
    assert score("images", task=task, out=out).exit_code == 0
    journal = (tmp_path / out / "_journal.jsonl").read_text().splitlines()
    record = json.loads(journal[1])
    file = tmp_path / out / record["file"]
    assert (record["size_bytes"], record["sha256"]) == (
        file.stat().st_size,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    assert "is finished: 100 rows" in score("images", task=task, out=out).stdout


def test_rows_of_several_versions_are_said_to_be(score, server, folder):
    assert "The rows are of" not in score(folder).stdout
    versions = itertools.cycle((3, 4))

    def shared_out(response):
        response.version = next(versions)

    server.service.alter_response = shared_out
    told = score(folder, "--overwrite").stdout
    counts = re.search(
        r"\. The rows are of several versions, (\d+) of version 3, (\d+) of version 4; --model-version", told
    )
    assert int(counts[1]) + int(counts[2]) == 100


def test_answers_that_come_out_of_order_are_written_in_order(score, server, folder, tmp_path):
    arrived = []
    another_answered = threading.Event()

    def hold_the_first(request, _context):
        images = [image.encoded for image in getattr(request, "images", ())]
        if images:
            arrived.append(images)
        if len(arrived) == 3:
            # Two are under way at first, so that a third one means that one of them was answered.
            another_answered.set()
        if b"000.jpg" in images:
            assert another_answered.wait(timeout=60)

    server.service.on_request = hold_the_first
    assert score(folder).exit_code == 0
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)


def test_detections_are_structs_with_the_size_of_the_image(score, folder, tmp_path):
    score(folder, task="detect")
    first = rows(tmp_path)[0]
    assert (first["width"], first["height"]) == (64, 48)
    assert first["detections"][0] == {
        "x_min": 1,
        "y_min": 2,
        "x_max": 11,
        "y_max": 22,
        "score": pytest.approx(0.9),
        "class_id": 2,
        "label": "000.jpg",
    }


# pycocotools has not caught up with NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_segmentations_are_areas_and_masks_that_coco_reads(score, folder, tmp_path):
    from pycocotools import mask as coco

    score(folder, task="segment")
    first = rows(tmp_path)[0]
    assert first["areas"][0] == {"class_id": 0, "label": "background", "area_pixels": 18}
    mask = {"size": [first["height"], first["width"]], "counts": first["masks"][0]["counts"]}
    assert coco.decode(mask).sum() == 6


def test_a_classified_image_has_its_upright_size_where_its_header_says_it(score, tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(made / "turned.jpg", exif=exif)
    (made / "x.jpg").write_bytes(b"text")
    score(made)
    assert [(row["path"], row["width"], row["height"]) for row in rows(tmp_path)] == [
        ("turned.jpg", 20, 30),
        ("x.jpg", None, None),
    ]


def test_files_that_fail_are_rows_with_their_reason_and_the_exit_code_is_1(
    score, folder, tmp_path, monkeypatch
):
    (folder / "bad.jpg").write_bytes(b"bad")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    (folder / "secret.png").write_bytes(b"secret")
    read_file = tree.read_file

    def forbidden(path):
        if Path(path).name == "secret.png":
            raise ImageError("Reading the file is not permitted.", reason="FILE_FORBIDDEN")
        return read_file(path)

    monkeypatch.setattr(tree, "read_file", forbidden)
    result = score(folder)
    assert result.exit_code == 1
    table = rows(tmp_path)
    assert len(table) == 103
    failed = {row["path"]: row for row in table if row["error_reason"]}
    assert {path: row["error_reason"] for path, row in failed.items()} == {
        "bad.jpg": "IMAGE_UNDECODABLE",
        "broken.png": "FILE_NOT_FOUND",
        "secret.png": "FILE_FORBIDDEN",
    }
    assert failed["bad.jpg"]["error_message"] == "These bytes are no image."
    assert failed["bad.jpg"]["classes"] is None
    assert failed["bad.jpg"]["model"] is None
    assert "scored 100 of 103 images" in result.stdout
    assert "3 failed (" in result.stdout
    assert "bad.jpg: IMAGE_UNDECODABLE: These bytes are no image." in result.stderr
    again = score(folder)
    assert (again.exit_code, "is finished: 103 rows, 3 of them failed." in again.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "b-detector"], "is for detect, not for classify"),
        (["--model", "nothing"], "There is no model 'nothing'"),
        (["--model-version", "99999999999"], "An option cannot be sent"),
        (["--threshold", "0.5"], "--threshold belongs to --task detect"),
        (["--class", "bag"], "--class belongs to --task detect or segment"),
        (["--server", "localhost:1"], "No Retinue server answers at localhost:1"),
        (["--format", "coco"], "is for --task detect, not for classify"),
        (["--out", "r.json"], "is for --task detect, not for classify"),
        (["--max-errors", "few"], "is no limit"),
        (["--max-errors", "101%"], "is no limit"),
        (["--out", "no/such/folder/r.parquet"], "there is no folder"),
    ],
)
def test_what_cannot_work_is_said_before_any_image_is_read(
    score, server, folder, tmp_path, arguments, complaint
):
    result = score(folder, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not any(hasattr(request, "images") for request in server.service.requests)
    assert not list(tmp_path.glob("*.parquet*"))


def test_without_a_model_the_only_one_of_the_task_is_taken(server, folder, tmp_path):
    out = tmp_path / "r.parquet"
    command = ["score", str(folder), "--task", "detect", "--out", str(out), "--server", server.address]
    assert runner.invoke(app, command).exit_code == 0
    assert pq.read_table(out).num_rows == 100


def test_options_reach_the_server_and_are_noted_in_the_file(score, server, folder, tmp_path):
    score(folder, "--top-k", "2", "--min-score", "0.5")
    request = server.service.requests[-1]
    assert (request.top_k, request.min_score) == (2, 0.5)
    score(
        folder, "--overwrite", "--threshold", "0.25", "--max-detections", "3", "--class", "bag", task="detect"
    )
    request = server.service.requests[-1]
    assert (request.score_threshold, request.max_detections, list(request.classes)) == (0.25, 3, ["bag"])
    metadata = pq.read_schema(part(tmp_path)).metadata
    assert json.loads(metadata[b"retinue.options"]) == {
        "model": "b-detector",
        "priority": "low",
        "score_threshold": 0.25,
        "max_detections": 3,
        "classes": ["bag"],
    }


def test_folders_without_images_missing_folders_and_files_are_refused(score, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    result = score(empty)
    assert (result.exit_code, "--all-files takes every file" in result.stderr) == (2, True)
    assert "does not exist" in score(tmp_path / "missing").stderr
    (empty / "notes.doc").write_text("x")
    assert "is a file of no kind that its name tells" in score(empty / "notes.doc").stderr
    assert not list(tmp_path.glob("*.parquet*"))
    assert score(empty, "--all-files").exit_code == 0


def test_too_many_errors_end_the_job_and_only_where_that_was_asked_for(score, folder, tmp_path):
    for index in range(20):
        (folder / f"bad-{index:02}.jpg").write_bytes(b"bad")
    result = score(folder, "--max-errors", "10")
    assert result.exit_code == 2
    assert "more than --max-errors allows." in result.stderr
    assert score(folder, "--max-errors", "20").exit_code == 1
    assert len(rows(tmp_path)) == 120
    assert score(folder, "--overwrite", "--max-errors", "10%").exit_code == 2
    assert score(folder, "--overwrite", "--max-errors", "20%").exit_code == 1


def test_a_folder_that_may_not_be_listed_is_named(score, folder, monkeypatch):
    def forbidden(_path):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    result = score(folder)
    assert (result.exit_code, result.stderr) == (2, f"retinue: {folder}: Permission denied.\n")


def test_an_output_that_cannot_be_created_is_named(score, folder, monkeypatch):
    def forbidden(_path, **_options):
        raise PermissionError(13, "Permission denied", "results.parquet")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    result = score(folder)
    assert (result.exit_code, result.stderr) == (2, "retinue: results.parquet: Permission denied.\n")
