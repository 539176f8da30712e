"""`retinue bench` against a server of canned answers."""

import json
import threading
import time

import grpc
import pytest
from PIL import Image
from typer.testing import CliRunner

from retinue_client.cli._app import app

SHORT = ("--seconds", "0.5", "--warm-up", "0.1")


@pytest.fixture
def bench(server, monkeypatch):
    """Measures the fake; the rest of the command line is as given."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)

    def run(*arguments, **options):
        command = ["bench", "--task", "classify", "--model", "a-classifier", *SHORT, *map(str, arguments)]
        return CliRunner().invoke(app, command, **options)

    return run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


class Slow(threading.Event):
    """Holds every answer up for a little while."""

    def wait(self, timeout=None):
        time.sleep(0.05)


def asked(server):
    """The requests about images."""
    return [request for request in server.service.requests if hasattr(request, "images")]


def balanced(counts):
    return counts["sent"] == sum(counts[fate] for fate in ("answered", "refused", "failed", "unfinished"))


def test_every_load_is_a_row_and_json_has_all_of_it(bench, tmp_path):
    out = tmp_path / "out.json"
    result = bench("--concurrency", "1,2", "--rate", "40", "--json", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "a-classifier v3 at localhost:" in result.stdout
    for words in ("1 at once", "2 at once", "40/s", "p99 ms", "inference"):
        assert words in result.stdout
    written = json.loads(out.read_text())
    assert written["model"]["name"] == "a-classifier"
    assert written["model"]["provider"] == "CPUExecutionProvider"
    assert written["settings"]["seconds"] == 0.5
    first, _, last = written["rows"]
    assert (first["loop"], first["concurrency"], last["loop"], last["rate"]) == ("closed", 1, "open", 40.0)
    for row in written["rows"]:
        assert balanced(row["requests"])
        assert row["requests"]["answered"] == row["images"]["answered"] > 0
        assert row["server_ms"] == {
            "queue": 0.2,
            "decode": 1.5,
            "inference": 6,
            "postprocess": 0.1,
            "total": 8.1,
        }
        assert row["mean_batch_size"] == 4
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] <= row["latency_ms"]["max"]


def test_json_on_standard_output_is_alone_there(bench):
    result = bench("--concurrency", "1", "--json", "-")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["rows"]) == 1
    assert "1 at once" in result.stderr


def test_the_server_is_asked_what_the_command_line_says(bench, server, picture):
    bench(
        picture, "--concurrency", "1", "-n", "3", "--top-k", "2", "--priority", "high", "--model-version", "3"
    )
    request = asked(server)[-1]
    assert (request.model, request.version, request.top_k, request.priority) == ("a-classifier", 3, 2, 1)
    assert [image.encoded for image in request.images] == [picture.read_bytes()] * 3


def test_pixels_are_sent_where_they_are_asked_for(bench, server):
    bench("--concurrency", "1", "--raw", "--size", "20x10")
    (image,) = asked(server)[-1].images
    assert (image.raw.width, image.raw.height, len(image.raw.data)) == (20, 10, 600)


def test_the_images_of_a_folder_are_asked_about_in_turns(bench, server, folder):
    bench(folder, "--concurrency", "1", "--seconds", "1")
    seen = [request.images[0].encoded for request in asked(server)[:50]]
    assert len(set(seen)) > 10


def test_a_closed_loop_keeps_as_many_requests_under_way_as_asked_for(bench, server):
    server.service.hold = Slow()
    assert bench("--concurrency", "6", "--processes", "2", "--connections", "3").exit_code == 0
    assert server.service.most_running == 6


def test_refusals_are_counted_by_reason_and_the_exit_code_is_1(bench, server, failure, tmp_path):
    calls = []

    def refuse_every_other(request, context):
        if hasattr(request, "images"):
            calls.append(request)
            if len(calls) > 1 and len(calls) % 2:
                failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.01).abort(context)

    server.service.on_request = refuse_every_other
    out = tmp_path / "out.json"
    result = bench("--rate", "60", "--json", out)
    assert result.exit_code == 1
    assert "QUEUE_FULL: Full." in result.stdout
    (row,) = json.loads(out.read_text())["rows"]
    assert balanced(row["requests"])
    assert row["requests"]["refused"] == row["errors"]["QUEUE_FULL"]["images"] > 0
    assert abs(row["requests"]["refused"] - row["requests"]["answered"]) <= 1


def test_what_cannot_work_is_said_before_anything_is_measured(bench, server, failure, tmp_path):
    server.service.on_request = lambda request, context: (
        failure(grpc.StatusCode.INVALID_ARGUMENT, "top_k is 9, but there are 3.", "INVALID_REQUEST").abort(
            context
        )
        if hasattr(request, "images")
        else None
    )
    result = bench("--top-k", "9", "--json", tmp_path / "out.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "retinue: top_k is 9, but there are 3.\n"
    assert len(asked(server)) == 1
    assert not (tmp_path / "out.json").exists()


def test_one_bad_image_of_several_is_counted_and_bad_ones_alone_are_refused(bench, picture, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"bad")
    result = bench(bad, picture, "--concurrency", "1", "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["requests"]["failed"] == row["errors"]["IMAGE_UNDECODABLE"]["images"] > 0
    result = bench(bad, "--concurrency", "1")
    assert (result.exit_code, result.stderr) == (2, "retinue: These bytes are no image.\n")


def test_where_nothing_is_answered_the_reason_is_the_last_word(bench, server, failure):
    """The first question of all is answered, all others are not."""
    calls = []

    def fail_later(request, context):
        if hasattr(request, "images"):
            calls.append(request)
            if len(calls) > 1:
                failure(grpc.StatusCode.INTERNAL, "It broke: see the log under 4711.", "INTERNAL").abort(
                    context
                )

    server.service.on_request = fail_later
    result = bench("--rate", "40")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "retinue: It broke: see the log under 4711."


def test_a_server_that_answers_nobody_leaves_unfinished_requests(bench, server, tmp_path, monkeypatch):
    monkeypatch.setattr("retinue_client.cli._bench_run._LONGEST_DRAIN_SECONDS", 0.2)
    calls = []

    def hang_later(request, context):
        if hasattr(request, "images"):
            calls.append(request)
            if len(calls) == 10:
                server.service.hold = threading.Event()

    server.service.on_request = hang_later
    result = bench("--concurrency", "2", "--warm-up", "0", "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "had no answer 0.2 s after its end" in result.stdout
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["requests"]["unfinished"] == 2
    assert balanced(row["requests"])


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--concurrency", "0"], "from 1 to 100,000"),
        (["--concurrency", "1,x"], "whole numbers"),
        (["--rate", "nan"], "numbers from 0.001"),
        (["--seconds", "inf"], "86400"),
        (["--within", "nan"], "should be"),
        (["--size", "500"], "WxH"),
        (["--size", "0x5"], "WxH"),
        (["--size", "99999x5"], "10,000 pixels"),
        (["--json", "/nowhere/out.json"], "no folder"),
        (["--json", "/"], "is a folder"),
        (["--threshold", "0.5"], "--task detect"),
        (["gone.jpg"], "no such file"),
        (["gone.jpg", "--size", "5x5"], "no image is named"),
        (["--model", "c-segmenter"], "is for segment, not for classify"),
        (["--model", "nope"], "There is no model 'nope'."),
        (["--server", "localhost:1"], "No Retinue server answers at localhost:1"),
        (["--server", "http://x"], "HOST:PORT"),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_is_2(bench, arguments, advice):
    result = bench(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert advice in " ".join(result.stderr.replace("│", " ").split())


def test_goodput_is_what_came_in_time(bench, server, tmp_path):
    server.service.hold = Slow()
    result = bench(
        "--concurrency", "2", "--within", "20", "--timeout", "inf", "--json", tmp_path / "out.json"
    )
    assert result.exit_code == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["goodput_images_per_second"] == 0 < row["images_per_second"]
    assert "goodput" in result.stdout


def test_an_empty_folder_is_refused(bench, tmp_path):
    result = bench(tmp_path)
    assert result.exit_code == 2
    assert "the folder has no images" in result.stderr
