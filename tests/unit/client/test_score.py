import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from retinue_client._errors import ImageError
from retinue_client._score import job as score_job
from retinue_client.cli._app import app

runner = CliRunner()
TASKS = {"classify": "a-classifier", "detect": "b-detector", "segment": "c-segmenter"}


@pytest.fixture
def score(server, monkeypatch, tmp_path):
    """Scores a folder with the fake; the rest of the command line is as given."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)

    def run(folder, *arguments, task="classify", out=tmp_path / "results.parquet"):
        command = ["score", folder, "--task", task, "--model", TASKS[task], "--out", out, *arguments]
        return runner.invoke(app, [str(argument) for argument in command])

    return run


@pytest.fixture
def folder(tmp_path):
    """100 files whose content is their name."""
    made = tmp_path / "images"
    for index in range(100):
        path = made / f"{index % 7}" / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return made


def rows(tmp_path):
    return pq.read_table(tmp_path / "results.parquet").to_pylist()


def image_paths(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files]


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
    schema = pq.read_schema(tmp_path / "results.parquet")
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
    assert not (tmp_path / "results.parquet.partial").exists()


def test_answers_that_come_out_of_order_are_written_in_order(score, server, folder, tmp_path):
    def slow_where_first(request, _context):
        # The requests that are sent first are answered last.
        if len(server.service.requests) < 6:
            time.sleep(0.05 * (6 - len(server.service.requests)))

    server.service.on_request = slow_where_first
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
    read_file = score_job.read_file

    def forbidden(path):
        if Path(path).name == "secret.png":
            raise ImageError("Reading the file is not permitted.", reason="FILE_FORBIDDEN")
        return read_file(path)

    monkeypatch.setattr(score_job, "read_file", forbidden)
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


def test_a_busy_server_is_given_time_and_every_file_is_scored(score, server, failure, folder, tmp_path):
    refused = []

    def full_at_first(request, context):
        if hasattr(request, "images") and len(refused) < 12:
            refused.append(time.monotonic())
            failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.05).abort(context)

    server.service.on_request = full_at_first
    assert score(folder).exit_code == 0
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)
    assert refused[-1] - refused[0] > 0.05


def test_a_server_that_takes_only_one_image_at_a_time_is_fed_one_at_a_time(
    score, server, failure, folder, tmp_path
):
    def one_only(request, context):
        if len(getattr(request, "images", ())) > 1:
            failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.001).abort(context)

    server.service.on_request = one_only
    assert score(folder).exit_code == 0
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)


def test_a_limit_of_images_in_a_request_is_kept_once_it_is_met(score, server, failure, folder, tmp_path):
    def few_only(request, context):
        if len(getattr(request, "images", ())) > 3:
            failure(grpc.StatusCode.INVALID_ARGUMENT, "Too many images.", "TOO_MANY_IMAGES").abort(context)

    server.service.on_request = few_only
    assert score(folder).exit_code == 0
    assert len(rows(tmp_path)) == 100


def test_an_image_on_which_the_server_fails_is_a_row_and_its_neighbours_are_scored(
    score, server, failure, folder, tmp_path
):
    def poisoned(request, context):
        if any(image.encoded == b"050.jpg" for image in getattr(request, "images", ())):
            failure(grpc.StatusCode.INTERNAL, "The engine failed.", "ENGINE_FAILED").abort(context)

    server.service.on_request = poisoned
    assert score(folder).exit_code == 1
    failed = {row["path"]: row["error_reason"] for row in rows(tmp_path) if row["error_reason"]}
    assert failed == {"1/050.jpg": "ENGINE_FAILED"}
    assert len(rows(tmp_path)) == 100


def test_a_server_that_restarts_meanwhile_is_waited_for(score, server, folder, tmp_path):
    restarted = threading.Event()

    def restart():
        server.stop()
        server.start_again()
        restarted.set()

    def restart_midway(_request, _context):
        if len(server.service.requests) == 4:
            threading.Thread(target=restart).start()

    server.service.on_request = restart_midway
    assert score(folder).exit_code == 0
    assert restarted.is_set()
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)


def test_a_server_that_stays_away_ends_the_job_and_leaves_the_rows_so_far(
    score, server, failure, folder, tmp_path
):
    def gone_after_a_while(_request, context):
        if len(server.service.requests) > 6:
            failure(grpc.StatusCode.UNAVAILABLE, "Draining.", "DRAINING").abort(context)

    server.service.on_request = gone_after_a_while
    result = score(folder, "--patience", "0.2")
    assert result.exit_code == 2
    assert "retinue: Draining. The rows so far are in " in result.stderr
    assert not (tmp_path / "results.parquet").exists()
    so_far = pq.read_table(tmp_path / "results.parquet.partial").to_pylist()
    assert 0 < len(so_far) < 100
    assert [row["path"] for row in so_far] == image_paths(folder)[: len(so_far)]


def test_a_wrong_question_ends_the_job_at_once(score, server, failure, folder, tmp_path):
    def refuse(request, context):
        if hasattr(request, "images"):
            failure(grpc.StatusCode.INVALID_ARGUMENT, "top_k is 0.", "INVALID_REQUEST").abort(context)

    server.service.on_request = refuse
    result = score(folder, "--top-k", "0")
    assert (result.exit_code, "top_k is 0." in result.stderr) == (2, True)
    assert not (tmp_path / "results.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "b-detector"], "is for detect, not for classify"),
        (["--model", "nothing"], "There is no model 'nothing'"),
        (["--threshold", "0.5"], "--threshold belongs to --task detect"),
        (["--class", "bag"], "--class belongs to --task detect or segment"),
        (["--server", "localhost:1"], "No Retinue server answers at localhost:1"),
        (["--out", "r.csv"], "end it in .parquet"),
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
    score(folder, "--threshold", "0.25", "--max-detections", "3", "--class", "bag", task="detect")
    request = server.service.requests[-1]
    assert (request.score_threshold, request.max_detections, list(request.classes)) == (0.25, 3, ["bag"])
    metadata = pq.read_schema(tmp_path / "results.parquet").metadata
    assert json.loads(metadata[b"retinue.options"]) == {
        "model": "b-detector",
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
    assert "is a file, not a folder" in score(empty / "notes.txt").stderr
    assert not list(tmp_path.glob("*.parquet*"))
    assert score(empty, "--all-files").exit_code == 0


def test_results_that_exist_are_kept_unless_told_otherwise(score, folder, tmp_path):
    out = tmp_path / "results.parquet"
    out.write_bytes(b"precious")
    result = score(folder)
    assert (result.exit_code, "--overwrite" in result.stderr) == (2, True)
    assert out.read_bytes() == b"precious"
    assert score(folder, "--overwrite").exit_code == 0
    assert pq.read_table(out).num_rows == 100


def test_a_folder_that_may_not_be_listed_is_named(score, folder, monkeypatch):
    def forbidden(_path):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    result = score(folder)
    assert (result.exit_code, result.stderr) == (2, f"retinue: {folder}: Permission denied.\n")


def test_what_an_interrupted_run_left_stays_until_the_server_answers_again(score, folder, tmp_path):
    partial = tmp_path / "results.parquet.partial"
    partial.write_bytes(b"rows of an hour")
    assert score(folder, "--server", "localhost:1").exit_code == 2
    assert partial.read_bytes() == b"rows of an hour"
    assert score(folder).exit_code == 0
    assert not partial.exists()


def test_an_output_that_cannot_be_created_is_named(score, folder, tmp_path):
    (tmp_path / "results.parquet.partial").mkdir()
    result = score(folder)
    assert result.exit_code == 2
    assert "results.parquet.partial" in result.stderr


def test_a_disk_that_fills_up_is_named(score, folder, tmp_path):
    (tmp_path / "results.parquet.partial").symlink_to("/dev/full")
    result = score(folder)
    assert result.exit_code == 2
    assert "results.parquet: No space left on device." in result.stderr
    assert not list(tmp_path.glob("*.parquet*"))


def test_results_inside_the_folder_are_not_scored_themselves(score, folder):
    out = folder / "out.parquet"
    assert score(folder, "--all-files", out=out).exit_code == 0
    assert score(folder, "--all-files", "--overwrite", out=out).exit_code == 0
    assert len(pq.read_table(out)) == 100


def test_in_flight_work_is_bounded(score, server, folder):
    assert score(folder, "--max-in-flight", "16").exit_code == 0
    assert server.service.most_running <= 2
    assert max(len(getattr(request, "images", ())) for request in server.service.requests) <= 8
    assert score(folder, "--max-in-flight", "1", "--overwrite").exit_code == 0


def test_files_are_read_only_a_little_ahead_of_the_answers(score, server, tmp_path, monkeypatch):
    made = tmp_path / "images"
    made.mkdir()
    for index in range(1000):
        (made / f"{index:04}.jpg").write_bytes(b"x")
    read = []
    read_file = score_job.read_file
    monkeypatch.setattr(score_job, "read_file", lambda path: (read.append(path), read_file(path))[1])
    most_ahead = 0

    def compare(request, _context):
        nonlocal most_ahead
        answered = sum(len(getattr(one, "images", ())) for one in server.service.requests)
        most_ahead = max(most_ahead, len(read) - answered)

    server.service.on_request = compare
    assert score(made, "--max-in-flight", "32").exit_code == 0
    assert len(read) == 1000
    assert most_ahead <= 32 + 5 * 8


def test_an_interrupted_job_leaves_the_rows_so_far_and_the_exit_code_130(server, folder, tmp_path):
    out = tmp_path / "results.parquet"
    (folder / "0" / "!.jpg").write_bytes(b"bad")
    stalled = threading.Event()

    def stall_at_the_end(request, _context):
        if any(image.encoded == b"097.jpg" for image in getattr(request, "images", ())):
            stalled.wait(timeout=60)

    server.service.on_request = stall_at_the_end
    program = "from retinue_client.cli import main; main()"
    command = [sys.executable, "-c", program, "score", str(folder), "--task", "classify", "--out", str(out)]
    environment = os.environ | {"RETINUE_SERVER": server.address}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        # Once the failure of the first file is on the screen, its row is in the table.
        assert "!.jpg: IMAGE_UNDECODABLE" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    stalled.set()
    assert process.returncode == 130
    assert "interrupted. The rows so far are in" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    so_far = pq.read_table(tmp_path / "results.parquet.partial").to_pylist()
    assert 0 < len(so_far) < 101
    assert [row["path"] for row in so_far] == image_paths(folder)[: len(so_far)]
