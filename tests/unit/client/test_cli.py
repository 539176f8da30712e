"""The command's answers, refusals, options and exit codes."""

import os
import subprocess
import sys

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.unit.client.command_output import lines

from retinue_client import _images


def test_every_answer_is_a_table_and_the_exit_code_0(retinue, photos):
    result = retinue("detect", photos / "a.png", photos / "b.png")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert f"{photos / 'a.png'}  64x48  only-model v3  8.1 ms" in result.stdout
    assert "bag" in result.stdout
    rows = [line.split()[1:] for line in result.stdout.splitlines()]
    assert ["a", "PNG", "0.900", "1.0", "2.0", "11.0", "22.0"] in rows


def test_one_image_without_an_answer_is_named_and_the_exit_code_1(retinue, photos):
    result = retinue("classify", photos / "a.png", photos / "bad.png", photos / "gone.png")
    assert result.exit_code == 1
    assert "a.png" in result.stdout
    assert f"{photos / 'bad.png'}: IMAGE_UNDECODABLE: These bytes are no image." in result.stderr
    assert f"{photos / 'gone.png'}: FILE_NOT_FOUND: There is no such file." in result.stderr


def test_a_refused_call_is_one_sentence_and_the_exit_code_2(retinue, server, failure, photos):
    message = "There is no model 'x'. Models: a-classifier."
    server.service.failures.append(failure(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND"))
    result = retinue("classify", photos / "a.png", "--model", "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"retinue: {message}\n"


@pytest.mark.parametrize("command", [["classify", "IMAGE"], ["models"]])
def test_an_unreachable_server_is_one_sentence_and_the_exit_code_2(retinue, photos, command):
    arguments = [photos / "a.png" if part == "IMAGE" else part for part in command]
    result = retinue(*arguments, "--server", "localhost:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "No Retinue server answers at localhost:1" in result.stderr
    assert "retinue-server --models" in result.stderr


def test_an_infinite_timeout_is_none(retinue, photos):
    assert retinue("classify", photos / "a.png", "--timeout", "inf").exit_code == 0
    result = retinue("models", "--timeout", "inf", "--server", "localhost:1")
    assert "No Retinue server answers at localhost:1" in result.stderr


def test_a_wrong_address_is_refused_with_an_example(retinue, photos):
    result = retinue("classify", photos / "a.png", "--server", "http://localhost:8001")
    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


def test_json_is_one_line_an_image_always_with_the_same_keys(retinue, photos):
    result = retinue("classify", "--json", photos / "a.png", photos / "bad.png", photos / "gone.png")
    assert (result.exit_code, result.stderr) == (1, "")
    answered, bad, gone = lines(result)
    for line in (answered, bad, gone):
        assert set(line) == {"image", "result", "error"}
    assert answered["image"] == str(photos / "a.png")
    assert answered["error"] is None
    assert set(answered["result"]) == {"model", "version", "classes", "timing"}
    assert bad["result"] is None
    assert bad["error"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "IMAGE_UNDECODABLE",
        "message": "These bytes are no image.",
        "retry_after_seconds": None,
    }
    assert gone["error"]["reason"] == "FILE_NOT_FOUND"


def test_json_of_a_call_that_fails_midway_still_has_a_line_for_each_image(retinue, server, failure, photos):
    calls = []

    def fail_the_second(request, context):
        calls.append(len(request.images))
        if len(calls) == 2:
            failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 20.0).abort(context)

    server.service.on_request = fail_the_second
    result = retinue("detect", "--json", *[photos / "a.png"] * 40)
    assert result.exit_code == 2
    printed = lines(result)
    assert len(printed) == 40
    assert [line["error"] is None for line in printed] == [True] * 16 + [False] * 24
    assert printed[-1]["error"]["retry_after_seconds"] == 20.0
    assert result.stderr == "retinue: Full.\n"


def test_json_of_a_segmentation_has_masks_that_coco_reads(retinue, photos):
    (line,) = lines(retinue("segment", "--json", photos / "a.png"))
    assert line["result"]["mask"] == {
        "format": "coco_rle",
        "size": "original",
        "masks": [{"class_id": 2, "label": "bag", "size": [4, 6], "counts": "9220003"}],
    }


def test_options_reach_the_server(retinue, server, photos):
    image = photos / "a.png"
    retinue("classify", image, "--top-k", "3", "--min-score", "0.5", "--model", "m", "--model-version", "4")
    retinue(
        *(
            "detect",
            image,
            "--threshold",
            "0.3",
            "--max-detections",
            "7",
            "--class",
            "bag",
            "--class",
            "boot",
        ),
        *("--iou", "0.25", "--masks", "--region", "1,2,3,4", "--region", "5.5,6,7,8"),
    )
    retinue("segment", image, "--class", "bag", "--priority", "high", "--model-version", "canary")
    classify, detect, segment = server.service.requests
    assert (classify.top_k, classify.min_score, classify.model, classify.version) == (3, 0.5, "m", 4)
    assert (detect.score_threshold, detect.max_detections) == (pytest.approx(0.3), 7)
    assert list(detect.classes) == ["bag", "boot"]
    assert (detect.iou_threshold, detect.masks) == (0.25, True)
    assert [box.x_max for box in detect.images[0].regions] == [3, 7]
    assert list(segment.classes) == ["bag"]
    assert segment.version_label == "canary"
    assert (detect.priority, segment.priority) == (pb.PRIORITY_NORMAL, pb.PRIORITY_HIGH)


def test_what_a_classifier_says_of_each_detection_is_a_column(retinue, server, photos):
    asked = ("--classify-with", "colours", "--top-k", "2", "--min-score", "0.5", "--context", "0.25")
    result = retinue("detect", photos / "a.png", *asked)
    assert result.exit_code == 0
    assert all(told in result.stdout for told in ("colours v5", "red 75.0%", "blue 12.5%"))
    (request,) = server.service.requests
    assert request.classify_with == pb.ClassifyWith(model="colours", top_k=2, min_score=0.5, context=0.25)


def test_the_classifier_that_is_asked_may_be_a_pipelines_own(retinue, server, photos, failure):
    asked = ("--top-k", "1", "--min-score", "0.5", "--context", "0.25")
    assert retinue("detect", photos / "a.png", "--model", "find-and-name", *asked).exit_code == 0
    (request,) = server.service.requests
    assert request.classify_with == pb.ClassifyWith(top_k=1, min_score=0.5, context=0.25)
    text = "which classifier? Name one of 2."
    server.service.failures.append(failure(grpc.StatusCode.INVALID_ARGUMENT, text, "MODEL_UNNAMED"))
    result = retinue("detect", photos / "a.png", "--top-k", "1")
    assert (result.exit_code, result.stderr) == (2, f"retinue: {text}\n")


def test_an_image_comes_from_standard_input(retinue, photos, server):
    content = (photos / "a.png").read_bytes()
    result = retinue("classify", "-", input=content)
    assert result.exit_code == 0
    assert server.service.requests[0].images[0].encoded == content


def test_standard_input_is_read_up_to_the_limit_of_a_file(retinue, server, monkeypatch):
    monkeypatch.setattr(_images, "MAX_FILE_BYTES", 1 << 20)
    result = retinue("classify", "-", input=bytes((1 << 20) + 1))
    assert (result.exit_code, result.stderr) == (
        1,
        "-: FILE_TOO_LARGE: The file has more than 1 MiB: it is no photo.\n",
    )
    assert server.service.requests == []


def test_file_names_and_labels_with_brackets_are_shown_as_they_are(retinue, photos, server):
    name = photos / "[red]x[bold].png"
    name.write_bytes(b"[bold]label :smile:")
    result = retinue("classify", name)
    assert str(name) in result.stdout
    assert "[bold]label :smile:" in result.stdout


def test_file_names_and_labels_cannot_steer_the_terminal(retinue, photos):
    name = photos / "x\x1b[2J.png"
    name.write_bytes(b"\x1b]0;label\x07")
    result = retinue("classify", name, str(photos) + "/\x1b.png")
    assert "\x1b" not in result.output
    assert "x\\x1b[2J.png" in result.stdout
    assert "\\x1b]0;label\\x07" in result.stdout


def test_a_file_name_that_is_no_text_is_still_answered(retinue, photos):
    name = os.fsencode(photos) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(b"x")
    result = retinue("classify", os.fsdecode(name))
    assert result.exit_code == 0
    assert "caf\\udce9.png" in result.stdout
    assert lines(retinue("classify", "--json", os.fsdecode(name)))[0]["image"].endswith("caf\udce9.png")


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "_x", "²"])
def test_a_version_that_is_neither_number_nor_label_is_wrong_usage(version, retinue, photos):
    result = retinue("classify", photos / "a.png", "--model-version", version)
    assert result.exit_code == 2
    assert "is no version" in result.stderr


def test_wrong_usage_is_the_exit_code_2(retinue):
    assert retinue("classify", "x.png", "--top-k", "many").exit_code == 2
    assert retinue("paint", "x.png").exit_code == 2
    assert retinue("classify").exit_code == 2


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("classify", "--top-k", "0"),
        ("classify", "--min-score", "1.5"),
        ("detect", "--threshold", "-0.1"),
        ("detect", "--threshold", "nan"),
        ("detect", "--max-detections", "0"),
        ("detect", "--iou", "1.5"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_its_own_name(
    retinue, server, photos, command, option, value
):
    result = retinue(command, photos / "a.png", option, value)
    assert result.exit_code == 2
    assert f"'{option}'" in result.stderr
    assert server.service.requests == []


@pytest.mark.parametrize("region", ["1,2,3", "1,2,3,4,5", "a,b,c,d", ""])
def test_what_is_no_region_is_refused(retinue, server, photos, region):
    result = retinue("detect", photos / "a.png", "--region", region)
    assert result.exit_code == 2
    assert "X1,Y1,X2,Y2" in result.stderr
    assert server.service.requests == []


def test_the_help_says_where_masks_are_seen(retinue):
    usage = " ".join(retinue("detect", "--help", env={"COLUMNS": "200"}).stdout.split())
    assert "which pixels show each object, seen with --json or --draw only" in usage


def test_the_usage_names_an_image_once(retinue):
    usage = retinue("classify", "--help").stdout.strip().splitlines()[0]
    assert usage.count("...") == 1


def test_the_version_is_printed(retinue):
    result = retinue("--version")
    assert (result.exit_code, result.stdout) == (0, "retinue 0.1.0\n")


@pytest.mark.parametrize("missing", ["typer", "rich", "pyarrow"])
def test_without_its_extra_the_command_says_how_to_install_it(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; from retinue_client.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'retinue-client[cli]'" in result.stderr
    assert "Traceback" not in result.stderr
