"""A layer's maps of features as a picture, and what is told where there is none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tests import colour_bundles
from tests.unit.export import tiny
from tests.unit.export.command import run
from torch import nn

from retinue_export import assembly, feature_grid, feature_maps
from retinue_export.errors import ExportError
from retinue_export.feature_maps import Layer
from retinue_export.graph import PixelsIn
from retinue_export.subgraph import leading_to


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier, 8 channels of 8 x 6."""
    return assembly.build(tiny.candidate(), tmp_path_factory.mktemp("models"), 1, lambda _stage: None)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(tiny.images(1)[0]).save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_layers_are_named_after_the_modules_of_their_weights(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "features", bundle, "--list")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[1] == ["0", "Conv", "8", "x", "8", "x", "6", "conv2d"]
    assert rows[2][1:7] == ["Relu", "8", "x", "8", "x", "6"]
    # What follows is the same for all positions.
    assert len(rows) == 3


def test_the_maps_of_a_layer_are_what_the_module_computes(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    image = tiny.images(1)[0]
    shipped = assembly.export(tiny.candidate()).shipped
    pixels = PixelsIn(nn.Identity(), tiny.NORMALISATION.mean, tiny.NORMALISATION.deviation)
    with torch.no_grad():
        expected = shipped[0](pixels(torch.from_numpy(image[np.newaxis])))[0]
    by_name, by_tensor = (
        feature_maps.compute(model, feature_maps.find(model, name), image) for name in ("0", "conv2d")
    )
    np.testing.assert_allclose(by_name, expected.numpy(), atol=1e-5)
    assert np.array_equal(by_name, by_tensor)


def test_a_grid_shows_the_input_and_each_channel_in_its_own_range(
    bundle: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.png"
    arguments = ("features", bundle, "--layer", "0", "--image", photo, "--out", out)
    code, said, _ = run(capsys, *arguments)
    assert (code, "8 of 8 channels" in said) == (0, True)
    everything = size_of(out)
    assert run(capsys, *arguments, "--channels", "2")[0] == 0
    assert size_of(out)[1] < everything[1]
    assert run(capsys, *arguments, "--channels", "0")[0] == 0
    assert size_of(out) == everything


def test_tiles_go_from_black_to_white_and_a_level_channel_is_black() -> None:
    ramp = np.linspace(-3, 5, 48, dtype=np.float32).reshape(8, 6)
    maps = np.stack([ramp, np.full((8, 6), 7, np.float32)])
    image = np.full((8, 6, 3), (200, 10, 10), np.uint8)
    drawn = np.asarray(feature_grid.draw(Layer("a", "a", "Conv", (2, 8, 6)), maps, image))
    width, height = 84, 112
    tiles = [drawn[30 : 30 + height, 6 + place * (width + 6) :][:, :width] for place in range(3)]
    assert (tiles[0] == (200, 10, 10)).all()
    assert tiles[1][0, 0].tolist() == [0, 0, 0]
    assert tiles[1][-1, -1].tolist() == [255, 255, 255]
    assert not tiles[2].any()


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (500, 4), (640, 640)])
def test_maps_of_any_size_are_drawn(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(5, *size)).astype(np.float32)
    image = np.zeros((20, 20, 1), np.uint8)
    drawn = feature_grid.draw(Layer("a", "a", "Conv", (9, *size)), maps, image)
    assert max(drawn.size) < 2000


def test_a_layer_behind_what_finds_objects_has_no_one_map_for_an_image(tmp_path: Path) -> None:
    folder = colour_bundles.region_detector(tmp_path)
    model = onnx.load(folder / "model.onnx")
    with pytest.raises(ExportError, match="needs more than an image: "):
        feature_maps.compute(model, Layer("means", "means", "RoiAlign", (3, 1, 1)), tiny.images(1)[0])


def test_a_graph_that_fails_is_told_in_the_runtimes_words(tmp_path: Path) -> None:
    model = onnx.load(colour_bundles.classifier(tmp_path) / "model.onnx")
    model.graph.node[0].op_type = "NoSuchThing"
    with pytest.raises(ExportError, match=r"cannot be run as far as it: .*NoSuchThing"):
        feature_maps.compute(model, Layer("it", "floats", "Conv", (8, 8, 3)), tiny.images(1)[0])


def test_weights_do_not_count_in_what_is_run(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    part = leading_to(model, ["conv2d"])
    names = {tensor.name for tensor in part.graph.initializer}
    assert not any(name.startswith("network.5") for name in names)
    assert any(name.startswith("network.0") for name in names)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--layer": "conv2"}, "no layer 'conv2': did you mean 'conv2d'?"),
        ({"--layer": "zzz"}, "no layer 'zzz': --list shows what there is."),
        ({"--layer": "linear"}, "'linear' is no map of features [N,C,H,W]"),
        ({"--layer": ""}, "Give --layer, --image and --out"),
        ({"--image": "missing.png"}, "missing.png cannot be read: No such file or directory."),
        ({"--image": "text.txt"}, ""),
        ({"--out": "grid.txt"}, "does not name a picture: end it in .png, .jpg, .webp."),
        ({"--out": "grid.xbm"}, "does not name a picture"),
        ({"--out": "missing/grid.png"}, "There is no folder missing to write grid.png to."),
        ({"--out": "folder.png"}, "folder.png cannot be written: Is a directory."),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_sentence(
    changes: dict[str, str],
    said: str,
    bundle: Path,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("text.txt").write_text("no image", encoding="utf-8")
    Path("folder.png").mkdir()
    options = {"--layer": "0", "--image": "photo.png", "--out": "grid.png"} | changes
    code, _, err = run(capsys, "features", bundle, *(part for option in options.items() for part in option))
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("grid.png").exists()


def test_maps_of_regions_are_not_listed(tmp_path: Path) -> None:
    folder = colour_bundles.region_detector(tmp_path)
    assert feature_maps.layers(onnx.load(folder / "model.onnx")) == []
