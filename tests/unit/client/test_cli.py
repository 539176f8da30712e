import json
import os
import subprocess
import sys

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image
from retinue.v1 import vision_service_pb2 as pb
from typer.testing import CliRunner

from retinue_client import _images
from retinue_client._palette import colour_of_class
from retinue_client.cli._app import app

runner = CliRunner()


@pytest.fixture
def retinue(server, monkeypatch):
    """Runs a command line against the fake."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)

    def run(*arguments, **options):
        return runner.invoke(app, [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture
def photos(tmp_path):
    """Three files: two that are answered, one that is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 48), colour).save(folder / name)
    (folder / "bad.png").write_bytes(b"bad")
    return folder


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


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


@pytest.mark.parametrize("command", ["classify", "detect", "segment"])
def test_a_drawing_of_one_image_is_the_file_named(retinue, photos, tmp_path, command):
    out = tmp_path / "drawn.png"
    assert retinue(command, photos / "a.png", "--draw", out).exit_code == 0
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width >= 64


def test_drawings_of_several_images_go_into_a_folder_under_names_of_their_own(retinue, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (64, 48)).save(other / "a.jpg")
    out = tmp_path / "new" / "folder"
    result = retinue("detect", photos / "a.png", other / "a.jpg", photos / "bad.png", "--draw", out)
    assert result.exit_code == 1
    assert sorted(path.name for path in out.iterdir()) == ["a-2.png", "a.png"]


def test_a_drawing_into_an_existing_folder_is_named_after_the_image(retinue, photos, tmp_path):
    assert retinue("detect", photos / "a.png", "--draw", tmp_path).exit_code == 0
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("images", "out", "complaint"),
    [
        (["a.png", "b.png"], "one.png", "2 images need a folder"),
        (["a.png"], "one", "end it in .png"),
        (["a.png"], "one.txt", "end it in .png"),
        (["a.png"], "missing/one.png", "there is no folder"),
        (["a.png", "b.png"], "photos/a.png/folder", "cannot be created"),
        (["a.png"], "n" * 300 + ".png", "cannot be created: File name too long."),
        (["a.png", "b.png"], "n" * 300, "cannot be created: File name too long."),
    ],
)
def test_a_drawing_that_cannot_be_written_as_named_is_refused_before_the_server_is_asked(
    retinue, server, photos, tmp_path, images, out, complaint
):
    result = retinue("detect", *(photos / image for image in images), "--draw", tmp_path / out)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.startswith("retinue: --draw: ")
    assert server.service.requests == []


def test_a_picture_that_cannot_be_written_is_said_and_every_image_still_has_its_line(
    retinue, photos, tmp_path
):
    out = tmp_path / "drawn"
    (out / "a.png").mkdir(parents=True)
    (photos / "answered.png").write_bytes(b"no image to this machine")
    images = [photos / "a.png", photos / "answered.png", *[photos / "b.png"] * 20]
    result = retinue("segment", "--json", *images, "--draw", out, "--mask-out", tmp_path / "maps")
    assert result.exit_code == 1
    assert [line["error"] for line in lines(result)] == [None] * 22
    complaints = result.stderr.splitlines()
    assert [line.startswith("retinue: --draw: ") for line in complaints] == [True, True]
    assert "a.png' cannot be written: Is a directory." in complaints[0]
    assert "answered.png' cannot be drawn: It is no image file" in complaints[1]
    assert len(list(out.glob("b*.png"))) == 20
    assert len(list((tmp_path / "maps").iterdir())) == 22


def test_a_format_that_cannot_hold_the_picture_is_said(retinue, photos, tmp_path):
    result = retinue("detect", photos / "a.png", "--draw", tmp_path / "drawn.blp")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "drawn.blp' cannot be written: " in result.stderr


def test_heatmaps_are_asked_for_where_they_are_to_be_painted(retinue, server, photos, tmp_path):
    out = tmp_path / "heat"
    result = retinue("classify", photos / "a.png", photos / "b.png", photos / "bad.png", "--heatmap", out)
    assert result.exit_code == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    with Image.open(out / "a.png") as painted:
        assert painted.mode == "RGB"
    assert retinue("classify", photos / "a.png").exit_code == 0
    assert [request.heatmap for request in server.service.requests] == [True, False]
    result = retinue("classify", photos / "a.png", "--heatmap", tmp_path / "missing" / "one.png")
    assert result.exit_code == 2
    assert result.stderr.startswith("retinue: --heatmap: there is no folder")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_class_map_is_written_as_grey_levels(retinue, photos, tmp_path, as_json):
    out = tmp_path / "map.png"
    flags = ["--json"] if as_json else []
    assert retinue("segment", photos / "a.png", "--mask-out", out, *flags).exit_code == 0
    with Image.open(out) as class_map:
        assert np.asarray(class_map).tolist() == [[0] * 6, [0, 0, 2, 2, 2, 0], [0, 0, 2, 2, 2, 0], [0] * 6]
    result = retinue("segment", photos / "a.png", "--mask-out", tmp_path / "map.jpg")
    assert (result.exit_code, "end it in .png" in result.stderr) == (2, True)


def test_the_table_of_a_segmentation_has_the_colours_of_its_picture(retinue, photos, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    red, green, blue = colour_of_class(1)
    assert f"38;2;{red};{green};{blue}m■" in retinue("segment", photos / "a.png").stdout


def test_models_are_a_table(retinue):
    result = retinue("models")
    assert result.exit_code == 0
    heading, first, *_ = result.stdout.splitlines()
    assert heading.split("  ")[0] == "name"
    words = first.split()
    assert words[:3] == ["a-classifier", "3", "classify"]
    assert "224x160 (h x w) rgb" in first
    assert "top-1 0.925" in first
    assert first.rstrip().endswith("12.0 MiB (7.0 + 4.0 + 1.0)")
    assert "CPU " in first


def test_the_table_of_models_says_what_a_detector_can_do(retinue):
    _, classifier, detector, segmenter, _ = retinue("models").stdout.splitlines()
    assert "detect (regions, masks, keypoints)" in detector
    assert "classify  " in classifier
    assert "segment  " in segmenter


def served(server, *versions, **policy):
    """Has the server serve these versions of its first model so, and nothing else."""
    models = []
    for version in versions:
        models.append(pb.Model())
        models[-1].CopyFrom(server.service.models[0])
        models[-1].version = version
        json_format.ParseDict(policy, models[-1].serving)
    server.service.models[:] = models


@pytest.mark.parametrize(
    ("versions", "policy", "told"),
    [
        ((4, 3), {}, ["newest", ""]),
        ((3,), {"labels": {"stable": 3}}, ["stable, newest"]),
        ((4, 3), {"labels": {"stable": 3}}, ["newest", "stable"]),
        (
            (4, 3),
            {
                "labels": {"stable": 3, "canary": 4},
                "split": [{"label": "stable", "percent": 90}, {"label": "canary", "percent": 10}],
                "shadow": {"label": "canary", "percent": 25},
            },
            ["canary, 10 %, copies of 25 %", "stable, 90 %"],
        ),
        # What is missing leaves its share to the others.
        (
            (4, 3),
            {"split": [{"version": n, "percent": p} for n, p in ((2, 70), (3, 20), (4, 10))]},
            ["33.3 %", "66.7 %"],
        ),
        ((4, 3), {"split": [{"version": 2, "percent": 100}]}, ["newest", ""]),
        (
            (3,),
            {
                "split": [{"version": 3, "percent": 50}, {"version": 2, "percent": 50}],
                "shadow": {"version": 3, "percent": 25},
            },
            ["100 %"],
        ),
    ],
)
def test_the_table_of_models_says_which_requests_a_version_answers(retinue, server, versions, policy, told):
    served(server, *versions, **policy)
    heading, *rows = retinue("models").stdout.splitlines()
    assert heading.rstrip().endswith("requests")
    place = heading.index("requests")
    assert [row[place:].rstrip() for row in rows[: len(told)]] == told


def test_where_no_version_is_chosen_the_table_of_models_has_no_column_for_it(retinue):
    assert "requests" not in retinue("models").stdout


def test_pipelines_are_told_from_models(retinue, server):
    for number in (0, 1):
        changed = pb.Model()
        changed.CopyFrom(server.service.models[number])
        changed.manifest.pipeline.steps.add(model="one")
        changed.manifest.pipeline.steps.add(model="other")
        server.service.models[number] = changed
    _, first, second, *_ = retinue("models").stdout.splitlines()
    assert "classify (pipeline)  " in first
    assert "detect (pipeline, regions, masks, keypoints)" in second
    steps = [line["steps"] for line in lines(retinue("models", "--json"))]
    assert steps == [["one", "other"], ["one", "other"], []]


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "_x", "²"])
def test_a_version_that_is_neither_number_nor_label_is_wrong_usage(version, retinue, photos):
    result = retinue("classify", photos / "a.png", "--model-version", version)
    assert result.exit_code == 2
    assert "is no version" in result.stderr


def test_models_in_json_are_one_a_line(retinue):
    names = [line["name"] for line in lines(retinue("models", "--json"))]
    assert names == ["a-classifier", "b-detector", "c-segmenter"]


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
