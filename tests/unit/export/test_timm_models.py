"""timm's classifiers: their own pre-processing, labels and weights, and refusals of what does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from retinue_export import cli, inputs, pretrained, timm_models
from retinue_export.errors import ExportError
from retinue_export.pretrained import Preset
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import ResizeMode

SMALL = "test_resnet"


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small classifier with seven classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm_models.build_network(SMALL, 7).state_dict(), path)
    return path


def labels_file(folder: Path, count: int) -> Path:
    path = folder / "labels.txt"
    path.write_text("".join(f"class {number}\n" for number in range(count)), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.slow
def test_weights_of_your_own_become_a_bundle_that_verify_holds_against_them(
    small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    files = ("--weights", small_weights, "--labels", labels_file(tmp_path, 7))
    assert run("timm", SMALL, "--name", "mine", "--out", out, *files) == 0

    source = manifest_file.read(out / "mine" / "1").source
    assert source.architecture == f"timm.{SMALL}.r160_in1k"
    assert f"timm {timm.__version__}" in source.framework
    assert source.weights == small_weights.name
    assert source.weights_sha256 == manifest_file.file_sha256(small_weights)
    assert source.licence == "unknown"

    capsys.readouterr()
    assert run("verify", out / "mine", "--weights", small_weights) == 0
    assert "same SHA-256" in capsys.readouterr().out
    assert run("verify", out / "mine") == 0
    assert "the bundle itself" in capsys.readouterr().out


PREPARED = (
    # Bicubic, 224 of 235; bilinear, 224 of 256; bicubic, 384 x 384 stretched.
    "resnet18.a1_in1k",
    "ghostnet_100.in1k",
    "convnext_tiny.fb_in22k_ft_in1k_384",
)


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.parametrize("photo", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("upright", [True, False])
def test_photos_are_prepared_as_timm_does_to_one_level(name: str, photo: str, upright: bool) -> None:
    image = Image.fromarray(getattr(skimage.data, photo)())
    image = image if upright else image.transpose(Image.Transpose.ROTATE_90)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config, normalize=False)(image).permute(1, 2, 0).numpy()

    preset = timm_models.find_preset(name)
    pixels, _ = inputs.prepare_one(image.copy(), preset.spec)

    distance = np.abs(pixels.astype(int) - expected)
    assert distance.max() <= 1
    assert (distance > 0).mean() < 0.005
    assert (preset.normalisation.mean, preset.normalisation.deviation) == (config["mean"], config["std"])


def config_of(**changed: Any) -> dict[str, Any]:
    return {**timm.get_pretrained_cfg("resnet18").to_dict(), **changed}


def test_a_crop_of_the_middle_is_cut_from_what_timm_scales_to() -> None:
    spec, _ = timm_models.preprocessing("it", config_of(input_size=(3, 288, 288), crop_pct=0.95))
    assert spec.resize_mode is ResizeMode.SHORTER_SIDE_CENTER_CROP
    assert (spec.height, spec.width, spec.shorter_side) == (288, 288, 303)


def test_images_squashed_whole_are_stretched_whatever_the_size() -> None:
    changed = {"input_size": (3, 256, 192), "crop_mode": "squash", "crop_pct": 1.0}
    spec, _ = timm_models.preprocessing("it", config_of(**changed))
    assert spec.resize_mode is ResizeMode.STRETCH
    assert (spec.height, spec.width) == (256, 192)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_every_filter_that_a_manifest_can_say_is_timms(interpolation: str) -> None:
    config = config_of(interpolation=interpolation)
    spec, _ = timm_models.preprocessing("it", config)
    image = Image.fromarray(skimage.data.astronaut())
    known = timm.data.resolve_data_config(pretrained_cfg=config)
    expected = timm.data.create_transform(**known, normalize=False)(image).permute(1, 2, 0).numpy()
    pixels, _ = inputs.prepare_one(image, spec)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_one_channel_is_grey() -> None:
    changed = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.25,)}
    spec, normalisation = timm_models.preprocessing("it", config_of(**changed))
    assert spec.grey
    assert normalisation.deviation == (0.25,)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"crop_mode": "border"}, "crop_mode border"),
        ({"crop_mode": "squash", "crop_pct": 0.9}, "squash with crop_pct 0.9"),
        ({"crop_pct": 1.15}, "crop_pct 1.15"),
        ({"input_size": (3, 256, 192)}, "256 x 192"),
        ({"interpolation": "lanczos"}, "resizes by lanczos"),
    ],
)
def test_what_no_manifest_can_say_is_refused_with_the_way_out(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ExportError, match=rf"{told}.*retinue-export module"):
        timm_models.preprocessing("it", config_of(**changed))


def test_five_channels_are_refused() -> None:
    with pytest.raises(ExportError, match="5 channels"):
        timm_models.preprocessing("it", config_of(input_size=(5, 64, 64)))


def test_the_classes_of_imagenet_are_named() -> None:
    labels = timm_models.find_preset("resnet18").labels
    assert len(labels) == 1000
    assert labels[281:283] == ("tabby, tabby cat", "tiger cat")
    assert len(timm_models.find_preset("convnext_tiny.fb_in22k").labels) == 21_841


def test_classes_that_timm_does_not_name_must_be_given(small_weights: Path) -> None:
    with pytest.raises(
        ExportError, match=r"does not name the classes of vit_base_patch32_clip_224\.\w+: give --labels"
    ):
        timm_models.candidate("vit_base_patch32_clip_224.openai", "mine", small_weights, None)


def test_a_wrong_number_of_labels_is_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="8 labels, but the weights have 7 classes"):
        timm_models.candidate(SMALL, "mine", small_weights, labels_file(tmp_path, 8))
    with pytest.raises(ExportError, match="timm names 1000 classes, but the weights have 7"):
        timm_models.candidate(SMALL, "mine", small_weights, None)


def test_weights_of_another_network_are_refused(small_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"do not fit test_vit\.\w+: Missing key"):
        timm_models.candidate("test_vit", "mine", small_weights, labels_file(tmp_path, 7))


def test_weights_named_as_another_code_does_go_through_timms_own_conversion() -> None:
    """Here as OpenCLIP names a ConvNeXt."""
    torch.manual_seed(0)
    published = timm_models.build_network("test_convnext", 7).state_dict()
    renamed = {
        f"visual.trunk.{name}": value for name, value in published.items() if not name.startswith("head.fc.")
    }
    renamed["visual.head.proj.weight"] = published["head.fc.weight"]
    network = timm_models.build_network("test_convnext", 7)
    timm_models.find_preset("test_convnext").load(network, renamed)
    assert network.state_dict()["head.fc.bias"].count_nonzero() == 0
    assert all(torch.equal(value, published[name]) for name, value in network.state_dict().items())


def test_a_file_that_lacks_weights_is_refused_where_timm_itself_would_take_it() -> None:
    network = timm_models.build_network("dla34", 7)
    with pytest.raises(ExportError, match="do not fit dla34"):
        timm_models.find_preset("dla34").load(network, {"another.weight": torch.ones(2, 2)})


def test_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    torch.save(timm_models.build_network(SMALL, 7), tmp_path / "whole.pth")
    with pytest.raises(ExportError, match="unpickling it could run code"):
        timm_models.candidate(SMALL, "mine", tmp_path / "whole.pth", labels_file(tmp_path, 7))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet19", r"no model 'resnet19'\. It has resnet1"),
        ("nothing_like_it", r"no model 'nothing_like_it'\. timm\.list_models"),
        ("resnet18.b7", r"no weights 'b7' of resnet18\. It has a1_in1k, "),
        ("convnext_tiny_in22ft1k", r"calls convnext_tiny_in22ft1k convnext_tiny\.fb_in22k_ft_in1k now"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused_with_those_it_has(
    name: str, told: str, small_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=told):
        timm_models.candidate(name, "mine", small_weights, labels_file(tmp_path, 7))


class Maps(nn.Conv2d):
    """As an encoder: no logits, but features of each place."""

    def __init__(self, classes: int) -> None:
        super().__init__(3, classes, 1)


def test_an_architecture_that_answers_no_logits_is_no_classifier(tmp_path: Path) -> None:
    def find(name: str, sha256: str) -> Preset:
        return replace(timm_models.find_preset(name, sha256), build=Maps)

    save_file(Maps(7).state_dict(), tmp_path / "maps.safetensors")
    with pytest.raises(ExportError, match="not float32 logits"):
        pretrained.candidate(find, SMALL, "mine", tmp_path / "maps.safetensors", labels_file(tmp_path, 7))


def test_an_architecture_that_cannot_be_built_for_so_many_classes_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def create_model(*_arguments: object, **_options: object) -> nn.Module:
        raise TypeError("unexpected keyword\n'num_classes'.")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(
        ExportError, match=r"cannot build resnet18 .* TypeError: unexpected keyword 'num_classes'"
    ):
        timm_models.build_network("resnet18", 7)


def test_an_architecture_made_for_one_size_is_built_for_another() -> None:
    network = timm_models.build_network("test_vit", 7, side=64).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_without_a_network_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_arguments: object, **_options: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ExportError, match=rf"timm/{SMALL}\.r160_in1k could not be downloaded .*--weights"):
        timm_models.candidate(SMALL, "mine", None, None)


def test_downloaded_weights_are_timms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    path = tmp_path / "model.safetensors"
    save_file(timm_models.build_network(SMALL, 1000).state_dict(), path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_arguments: str(path))
    made = timm_models.candidate(SMALL, "mine", None, None)
    assert made.manifest.source.licence == "apache-2.0"
    assert "r160_in1k" in made.manifest.description
    assert made.manifest.labels[281] == "tabby, tabby cat"


def test_an_architecture_without_weights_needs_a_file() -> None:
    with pytest.raises(ExportError, match="no weights of nf_resnet26: give a file as --weights"):
        timm_models.candidate("nf_resnet26", "mine", None, None)
