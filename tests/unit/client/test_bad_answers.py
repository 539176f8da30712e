"""Answers that do not hold what the protocol promises: one clear error, and the other images' results stay."""

import io
import json
import math
import re
import struct
import zlib
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from google.rpc import error_details_pb2
from PIL import Image
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb
from typer.testing import CliRunner

from retinue_client import ImageError, ResponseError, _detections
from retinue_client import _masks as masks
from retinue_client._palette import colour_of_class
from retinue_client.cli import _show
from retinue_client.cli._app import app

NAN, INF = math.nan, math.inf
TOO_LONG = "y" * 5_000_000
STEERING = "\x1b[2J"


def png(mode="L", size=(64, 48), level=0):
    buffer = io.BytesIO()
    Image.new(mode, size, level).save(buffer, "PNG")
    return buffer.getvalue()


def png_of_headers(*sizes):
    """A grey PNG of zeros, with one header for each size; the pixels are those of a few rows."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    headers = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) for size in sizes]
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", *headers, chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")]
    )


def box(*corners):
    return image_pb2.BoundingBox(**dict(zip(("x_min", "y_min", "x_max", "y_max"), corners, strict=True)))


def of_first(kind, **fields):
    """A lie: other fields of the first class, detection, keypoint, area or mask of a result."""

    def alter(result):
        entry = {
            "class": lambda: result.classes[0],
            "detection": lambda: result.detections[0],
            "keypoint": lambda: result.detections[0].keypoints[0],
            "area": lambda: result.areas[0],
            "mask": lambda: result.coco_rle.masks[0],
        }[kind]()
        for name, value in fields.items():
            if name == "box":
                entry.box.CopyFrom(value)
            else:
                setattr(entry, name, value)

    return alter


def of_result(**fields):
    """A lie: other fields of a result."""

    def alter(result):
        for name, value in fields.items():
            setattr(result, name, value)

    return alter


def twice(result):
    result.areas.append(result.areas[0])
    result.areas[0].area_pixels = 1


LIES = {
    "score NaN": ("classify", of_first("class", score=NAN), "score nan"),
    "score infinite": ("classify", of_first("class", score=INF), "score inf"),
    "score huge": ("classify", of_first("class", score=3e38), r"score 3e\+38"),
    "score negative": ("classify", of_first("class", score=-5), "score -5"),
    "class negative": ("classify", of_first("class", class_id=-5), "class id -5"),
    "class huge": ("classify", of_first("class", class_id=2**31 - 1), "class id 2147483647"),
    "box NaN": ("detect", of_first("detection", box=box(NAN, NAN, NAN, NAN)), "a box"),
    "box infinite": ("detect", of_first("detection", box=box(-INF, 0, INF, 5)), "a box"),
    "box huge": ("detect", of_first("detection", box=box(-3e38, -3e38, 3e38, 3e38)), "a box"),
    "box beside the image": ("detect", of_first("detection", box=box(0, 0, 65, 48)), "a box"),
    "box reversed": ("detect", of_first("detection", box=box(9, 9, 1, 1)), "a box"),
    "detection's score NaN": ("detect", of_first("detection", score=NAN), "a score"),
    "detection's class negative": ("detect", of_first("detection", class_id=-(2**31)), "a class id"),
    "detection's class huge": ("detect", of_first("detection", class_id=2**31 - 1), "a class id"),
    "keypoint NaN": ("detect", of_first("keypoint", x=NAN), "a keypoint"),
    "keypoint far away": ("detect", of_first("keypoint", y=3e38), "a keypoint"),
    "keypoint's score NaN": ("detect", of_first("keypoint", score=-INF), "a keypoint"),
    "no size": ("detect", of_result(image_width=0, image_height=0), "a size of 0x0"),
    "size huge": ("detect", of_result(image_width=100_000, image_height=40_000), "a size of 100000x40000"),
    "counts no text": ("detect", of_first("detection", mask_counts=b"\xff\xfe"), "run-length mask"),
    "counts too low": ("detect", of_first("detection", mask_counts=b"\x01\x02"), "run-length mask"),
    "map's size negative": ("segment", of_result(width=-1, height=-1), "a size of -1x-1"),
    "map's size huge": ("segment", of_result(width=2**31 - 1, height=2**31 - 1), "a size of 2147483647"),
    "map's class negative": ("segment", of_first("area", class_id=-7), "class id -7"),
    "map's class huge": ("segment", of_first("area", class_id=65_536), "class id 65536"),
    "mask's class negative": ("segment", of_first("mask", class_id=-5), "class id -5"),
    "mask's class huge": ("segment", of_first("mask", class_id=2**31 - 1), "class id 2147483647"),
    "mask's counts no text": ("segment", of_first("mask", counts=b"\xff\xff"), "run-length mask"),
    "area negative": ("segment", of_first("area", area_pixels=-(2**62)), "areas"),
    "area over the map": ("segment", of_first("area", area_pixels=19), "areas"),
    "class twice": ("segment", twice, "twice"),
}
OPTIONS = {"classify": {}, "detect": {"masks": True}, "segment": {"mask_format": "coco_rle"}}
lies = pytest.mark.parametrize(("question", "lie", "said"), LIES.values(), ids=LIES)


@lies
def test_an_answer_that_cannot_be_is_an_error_where_the_question_was_about_one_image(
    ask, server, question, lie, said
):
    server.service.alter_response = lambda response: lie(response.outcomes[0].result)
    with pytest.raises(ResponseError, match=said):
        ask(question, b"x", **OPTIONS[question])


@lies
def test_an_answer_that_cannot_be_is_an_error_of_its_image_alone(ask, server, question, lie, said):
    server.service.alter_response = lambda response: lie(response.outcomes[1].result)
    first, second, third = ask(question, [b"x", b"y", b"z"], **OPTIONS[question])
    assert not isinstance(first, ImageError)
    assert not isinstance(third, ImageError)
    assert isinstance(second, ImageError)
    assert (second.code, second.reason) == (grpc.StatusCode.INTERNAL, "RESPONSE_INVALID")
    assert second.source == "1 bytes"
    assert re.search(said, second.message)


def test_the_bounds_themselves_are_no_lies(ask, server):
    def alter(response):
        of_first("class", score=1, class_id=65_536)(response.outcomes[0].result)
        of_first("class", score=0, class_id=0)(response.outcomes[1].result)

    server.service.alter_response = alter
    assert [answer.best.score for answer in ask("classify", [b"x", b"y"])] == [1, 0]

    server.service.alter_response = lambda response: of_first(
        "detection", box=box(0, 0, 64, 48), score=1, class_id=65_536
    )(response.outcomes[0].result)
    assert ask("detect", b"x")[0].box == (0, 0, 64, 48)


def test_a_size_must_be_that_of_the_pixels_that_were_sent(ask):
    assert len(ask("detect", np.zeros((48, 64, 3), np.uint8))) == 2
    with pytest.raises(ResponseError, match="a size of 64x48 for an image of 48x64"):
        ask("detect", np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(ResponseError, match="a size of 6x4 for an image of 64x48"):
        ask("segment", np.zeros((48, 64, 3), np.uint8))
    assert ask("segment", np.zeros((48, 64, 3), np.uint8), mask_size="model").class_map.shape == (4, 6)


def test_a_large_size_is_believed_only_of_a_large_file(ask, server):
    server.service.alter_response = lambda response: of_result(width=9000, height=8000, png=png())(
        response.outcomes[0].result
    )
    with pytest.raises(ResponseError, match="a size of 9000x8000 for an image of 64x48"):
        ask("segment", png())
    with pytest.raises(ResponseError, match="a class map of 9000x8000, larger than any model's"):
        ask("segment", png(), mask_size="model")
    assert ask("segment", png_of_headers((9000, 8000))).width == 9000
    assert ask("segment", b"a kind of file that Pillow cannot read").width == 9000


@pytest.mark.parametrize(
    "sizes", [[(513, 1)], [(1, 513)], [(13000, 13000)], [(40000, 40000)], [(4, 4), (600, 4)]]
)
def test_a_heatmap_that_is_too_large_is_refused_before_it_is_decoded(sizes):
    width, height = sizes[-1]
    with pytest.raises(ResponseError, match=f"a PNG of {width}x{height}, larger than 512x512"):
        masks.heatmap_from_png(png_of_headers(*sizes))


@pytest.mark.parametrize("sizes", [[(13000, 13000)], [(7, 5)], [(6, 4), (60, 4)]])
def test_a_class_map_of_another_size_is_refused_before_it_is_decoded(sizes):
    width, height = sizes[-1]
    with pytest.raises(ResponseError, match=f"a PNG of {width}x{height}, larger than 6x4"):
        masks.class_map_from_png(png_of_headers(*sizes), 4, 6)


def test_a_mask_of_a_class_without_an_area_is_decoded_all_the_same(ask, server):
    server.service.alter_response = lambda response: of_first("mask", class_id=300)(
        response.outcomes[0].result
    )
    answer = ask("segment", b"x", mask_format="coco_rle")
    assert sorted(np.unique(answer.class_map).tolist())[-1] == 300
    assert answer.to_image().mode == "I;16"


@pytest.fixture
def retinue(server, monkeypatch, tmp_path):
    """Runs a command on an image against the fake; in its folder."""
    monkeypatch.setenv("RETINUE_SERVER", server.address)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png("RGB", (64, 48)))

    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run


@lies
def test_the_command_line_says_so_in_one_sentence(retinue, server, question, lie, said, tmp_path):
    server.service.alter_response = lambda response: lie(response.outcomes[0].result)
    options = ["--masks"] if question == "detect" else ["--json"] if question == "segment" else []
    result = retinue(question, "image.png", *options, "--draw", "drawn.png")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    if question == "segment":
        assert json.loads(result.stdout)["error"]["reason"] == "RESPONSE_INVALID"
    else:
        assert result.stdout == ""
        assert result.stderr.startswith("image.png: RESPONSE_INVALID: The server answered ")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "drawn.png").exists()


def hostile_model():
    """A model whose every text steers the terminal, and whose figures are none."""
    model = pb.Model(name=f"{STEERING}name", version=1)
    model.manifest.quality.add(metric=f"{STEERING}metric", value=NAN)
    model.execution.provider = f"{STEERING}provider"
    model.execution.fallback_reason = f"{STEERING}reason"
    return model


def test_json_has_no_words_for_what_is_no_number(retinue, server):
    server.service.models = [hostile_model()]
    result = retinue("models", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr == "retinue: The server answered a number that is not finite, which JSON cannot say.\n"
    )


def test_nothing_that_a_server_says_steers_the_terminal(retinue, server):
    def alter(response):
        response.model = f"{STEERING}model"
        if response.outcomes[0].HasField("error"):
            detail = response.outcomes[0].error.details[0]
            detail.Pack(error_details_pb2.ErrorInfo(reason=f"{STEERING}REASON"))

    server.service.models = [hostile_model()]
    server.service.alter_response = alter
    Path("bad.png").write_bytes(b"bad")
    listed, answered, failed = (
        retinue("models"),
        retinue("classify", "image.png"),
        retinue("classify", "bad.png"),
    )
    for result, said in (
        (listed, ["name", "metric", "provider", "fallback: \\x1b[2Jreason"]),
        (answered, ["model v3"]),
        (failed, ["REASON: These bytes"]),
    ):
        assert STEERING not in result.output
        assert all(words in result.output for words in said)


def test_a_label_without_end_is_cut_where_it_is_shown(retinue, server):
    def alter(response):
        result = response.outcomes[0].result
        (entries,) = (
            getattr(result, name) for name in ("classes", "detections", "areas") if hasattr(result, name)
        )
        entries[0].label = TOO_LONG

    server.service.alter_response = alter
    for question in ("classify", "detect", "segment"):
        result = retinue(question, "image.png", "--draw", "drawn.png")
        assert (result.exit_code, result.stderr) == (0, "")
        assert len(result.stdout) < 20_000
        assert "y…" in result.stdout


def test_a_bad_answer_is_a_row_and_its_neighbours_are_scored(score, server, folder, tmp_path):
    def alter(response):
        for outcome in response.outcomes:
            if outcome.result.detections[0].label == "050.jpg":
                outcome.result.detections[0].score = NAN

    server.service.alter_response = alter
    result = score(folder, task="detect")
    assert result.exit_code == 1
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == 100
    assert [(row["path"], row["error_reason"]) for row in rows if row["error_reason"]] == [
        ("1/050.jpg", "RESPONSE_INVALID")
    ]
    asked = [len(request.images) for request in server.service.requests if hasattr(request, "images")]
    assert sum(asked) == 101


def test_a_mask_that_is_no_text_does_not_end_a_scoring_job(score, server, folder, tmp_path):
    server.service.alter_response = lambda response: [
        of_first("mask", counts=b"\xff\xff")(outcome.result) for outcome in response.outcomes[:1]
    ]
    assert score(folder, task="segment").exit_code == 1
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == 100
    assert {row["error_reason"] for row in rows} == {None, "RESPONSE_INVALID"}


def test_of_very_many_detections_some_are_shown_and_drawn(retinue, server, monkeypatch, tmp_path):
    monkeypatch.setattr(_show, "_MOST_DETECTIONS", 1)
    monkeypatch.setattr(_detections, "_MOST_DRAWN", 1)
    server.service.alter_response = lambda response: of_first("detection", box=box(1, 1, 5, 5))(
        response.outcomes[0].result
    )
    result = retinue("detect", "image.png", "--masks", "--draw", "drawn.png")
    assert result.exit_code == 0
    assert "and 1 more, all of them in --json" in result.stdout
    assert "bag" not in result.stdout
    with Image.open(tmp_path / "drawn.png") as drawn:
        colours = {colour for _, colour in drawn.getcolors(1 << 16)}
    assert colour_of_class(2) in colours
    assert colour_of_class(0) not in colours


@pytest.mark.parametrize(
    "error", [OverflowError("too large"), SystemError("odd"), MemoryError(), ZeroDivisionError("0")]
)
def test_a_picture_that_cannot_be_drawn_is_one_sentence(retinue, monkeypatch, tmp_path, error):
    def paint(*_arguments):
        raise error

    monkeypatch.setattr(_detections, "draw_detections", paint)
    result = retinue("detect", "image.png", "--draw", "drawn.png")
    assert result.exit_code == 1
    said = str(error) or "MemoryError"
    assert result.stderr == f"retinue: --draw: 'drawn.png' cannot be drawn: {said}.\n"
    assert not (tmp_path / "drawn.png").exists()
