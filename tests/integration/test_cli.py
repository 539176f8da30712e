"""The installed command `retinue` against a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tests import pictures
from tests.server_process import ServerProcess

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def _runner(server: ServerProcess) -> Command:
    program = str(Path(sys.executable).parent / "retinue")
    environment = {**os.environ, "RETINUE_SERVER": server.grpc_address, "NO_COLOR": "1"}

    def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [program, *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run


@pytest.fixture(scope="module")
def retinue(colour_server: ServerProcess) -> Command:
    return _runner(colour_server)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    picture, _ = pictures.quarters(64, 32)
    contents = {
        "red.png": pictures.png(pictures.RED),
        "blue.png": pictures.png(pictures.BLUE),
        "quarters.png": pictures.encode(picture),
        "turned.png": pictures.turned_file(picture, 6, "PNG"),
        "text.jpg": b"no image",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {Path(name).stem: folder / name for name in contents}


def _lines(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_images_are_classified(retinue: Command, files: dict[str, Path]) -> None:
    done = retinue("classify", files["red"], files["blue"])
    assert (done.returncode, done.stderr) == (0, "")
    red, blue = (done.stdout.index(str(files[name])) for name in ("red", "blue"))
    assert done.stdout[red:blue].split("\n")[1].split()[:2] == ["red", "100.0%"]
    assert done.stdout[blue:].split("\n")[1].split()[:2] == ["blue", "100.0%"]


def test_one_bad_image_does_not_keep_the_others_from_their_answers(
    retinue: Command, files: dict[str, Path]
) -> None:
    done = retinue("detect", "--json", files["red"], files["text"], files["blue"])
    assert done.returncode == 1
    red, text, blue = _lines(done)
    assert red["result"]["detections"][0]["label"] == "red"
    assert text["error"]["reason"] == "IMAGE_UNDECODABLE"
    assert blue["result"]["detections"][0]["label"] == "blue"


def test_wrong_questions_get_the_servers_advice_and_the_exit_code_2(
    retinue: Command, files: dict[str, Path]
) -> None:
    for arguments, advice in (
        (["classify", files["red"], "--model", "nope"], "colour-classifier"),
        (["detect", files["red"], "--model", "colour-classifier"], "colour-detector"),
        (["segment", files["red"], "--class", "violet"], "red"),
    ):
        done = retinue(*arguments)
        assert done.returncode == 2
        assert advice in done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1


def test_masks_in_json_are_those_of_the_picture(retinue: Command, files: dict[str, Path]) -> None:
    (line,) = _lines(retinue("segment", "--json", files["quarters"]))
    masks = {mask["label"]: mask for mask in line["result"]["mask"]["masks"]}
    areas = {area["label"]: area["area_pixels"] for area in line["result"]["areas"]}
    assert set(masks) == {"red", "green", "blue"}
    for label, mask in masks.items():
        assert coco.area({"size": mask["size"], "counts": mask["counts"].encode()}) == areas[label]


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_a_turned_photo_is_drawn_upright(
    retinue: Command, files: dict[str, Path], tmp_path: Path, task: str
) -> None:
    done = retinue(task, files["turned"], "--draw", tmp_path / "drawn.png")
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "drawn.png") as drawn:
        # 64 x 32 upright, enlarged by a whole number, with or without a panel below.
        assert drawn.width % 64 == 0
        assert drawn.height >= drawn.width / 2
        red, _, blue = drawn.convert("RGB").getpixel((drawn.width * 3 // 8, drawn.width * 3 // 8))
        assert blue > red


def test_a_class_map_is_written_as_a_picture(
    retinue: Command, files: dict[str, Path], tmp_path: Path
) -> None:
    assert retinue("segment", files["quarters"], "--mask-out", tmp_path / "map.png").returncode == 0
    with Image.open(tmp_path / "map.png") as image:
        class_map = np.asarray(image)
    assert class_map.shape == (32, 64)
    assert (class_map[4, 8], class_map[4, 56], class_map[28, 32]) == (0, 1, 2)


def test_models_are_listed(retinue: Command) -> None:
    done = retinue("models")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()[1:4]]
    assert names == ["colour-classifier", "colour-detector", "colour-segmenter"]
    assert "8x8 rgb" in done.stdout


def test_a_photo_from_standard_input_is_what_it_shows(server: ServerProcess, photos: dict[str, Path]) -> None:
    with photos["chelsea"].open("rb") as photo:
        done = _runner(server)(
            "classify", "-", "--model", "mobilenet-v2", "--top-k", 3, "--json", stdin=photo
        )
    assert done.returncode == 0
    (line,) = _lines(done)
    assert line["image"] == "-"
    assert any("cat" in entry["label"].lower() for entry in line["result"]["classes"])
