import os
import signal
import subprocess
import sys
import threading
import time

import grpc
from tests.unit.client.score_output import image_paths, rows

from retinue_client._score.disk import Disk
from retinue_client._score.sources import tree


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
    result = score(folder, "--patience", "0.2", "--rows-per-part", "5")
    assert result.exit_code == 2
    assert "retinue: Draining. What is done is in " in result.stderr
    assert "; the same command goes on with it." in result.stderr
    so_far = rows(tmp_path)
    assert 0 < len(so_far) < 100
    assert [row["path"] for row in so_far] == image_paths(folder)[: len(so_far)]
    server.service.on_request = None
    asked = len(server.service.requests)
    assert score(folder, "--rows-per-part", "5").exit_code == 0
    assert rows(tmp_path)[: len(so_far)] == so_far
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)
    asked_again = [
        image.encoded for one in server.service.requests[asked:] for image in getattr(one, "images", ())
    ]
    assert len(asked_again) == 100 - len(so_far)


def test_a_wrong_question_ends_the_job_at_once(score, server, failure, folder, tmp_path):
    def refuse(request, context):
        if hasattr(request, "images"):
            failure(grpc.StatusCode.INVALID_ARGUMENT, "top_k is 9.", "INVALID_REQUEST").abort(context)

    server.service.on_request = refuse
    result = score(folder, "--top-k", "9")
    assert (result.exit_code, "top_k is 9." in result.stderr) == (2, True)
    assert not (tmp_path / "results.parquet").exists()


def test_overwriting_begins_once_the_server_has_answered(score, folder, tmp_path):
    assert score(folder).exit_code == 0
    result = score(folder, "--overwrite", "--server", "localhost:1")
    assert result.exit_code == 2
    assert "; the same command without --overwrite goes on with it." in result.stderr
    assert len(rows(tmp_path)) == 100


def test_a_disk_that_fills_up_is_named_and_the_job_goes_on_when_it_has_room(
    score, folder, tmp_path, monkeypatch
):
    appended = Disk.append

    def full_after_a_while(disk, name, line):
        if b'"part":5' in line:
            appended(disk, name, line[:20])
            raise OSError(28, "No space left on device")
        appended(disk, name, line)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "append", full_after_a_while)
        result = score(folder, "--rows-per-part", "10")
    assert result.exit_code == 2
    assert "results.parquet: No space left on device. What is done is in " in result.stderr
    assert len(rows(tmp_path)) == 60
    assert score(folder, "--rows-per-part", "10").exit_code == 0
    assert [row["path"] for row in rows(tmp_path)] == image_paths(folder)


def test_in_flight_work_is_bounded(score, server, folder):
    assert score(folder, "--max-in-flight", "16").exit_code == 0
    assert server.service.most_running <= 4
    assert max(len(getattr(request, "images", ())) for request in server.service.requests) <= 4
    assert score(folder, "--max-in-flight", "1", "--overwrite").exit_code == 0


def test_files_are_read_only_a_little_ahead_of_the_answers(score, server, tmp_path, monkeypatch):
    made = tmp_path / "images"
    made.mkdir()
    for index in range(1000):
        (made / f"{index:04}.jpg").write_bytes(b"x")
    read = []
    read_file = tree.read_file
    monkeypatch.setattr(tree, "read_file", lambda path: (read.append(path), read_file(path))[1])
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
    command += ["--rows-per-part", "1"]
    environment = os.environ | {"RETINUE_SERVER": server.address}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        # Once the failure of the first file is on the screen, its row is in the table.
        assert "!.jpg: IMAGE_UNDECODABLE" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    stalled.set()
    assert process.returncode == 130
    assert "interrupted. What is done is in" in errors
    assert "Traceback" not in errors
    so_far = rows(tmp_path)
    assert 0 < len(so_far) < 101
    assert [row["path"] for row in so_far] == image_paths(folder)[: len(so_far)]


def test_a_job_whose_pipe_is_silent_can_be_interrupted(server, folder, tmp_path):
    out = tmp_path / "results"
    program = "from retinue_client.cli import main; main()"
    command = [sys.executable, "-c", program, "score", "-", "--task", "classify", "--out", str(out)]
    command += ["--rows-per-part", "1"]
    environment = os.environ | {"RETINUE_SERVER": server.address}
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    asked = threading.Event()
    server.service.on_request = lambda request, _context: hasattr(request, "images") and asked.set()
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdin.write(f"{folder}/0/000.jpg\n" * 200)
        process.stdin.flush()
        assert asked.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert process.stderr.read().startswith("retinue: interrupted.")
    assert process.returncode == 130
