"""What the command draws and writes: pictures, heatmaps and class maps."""

import numpy as np
import pytest
from PIL import Image
from tests.unit.client.command_output import lines

from retinue_client._palette import colour_of_class


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
