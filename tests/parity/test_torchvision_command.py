"""`retinue-export torchvision` with segmenters and detectors: from random, but live, weights to a verified bundle."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from retinue_export import cli, graph, inputs, torchvision_models
from retinue_export.catalogue.liveness import enliven, enliven_detector
from retinue_export.torchvision_detectors.detector import Detector

pytestmark = pytest.mark.slow


def live_weights(architecture: str, classes: int, folder: Path) -> Path:
    """A file as torch.save writes it for what torchvision makes."""
    torch.manual_seed(0)
    preset = torchvision_models.find_preset(architecture)
    network = preset.build(classes).eval()
    mean, deviation = preset.normalisation.mean, preset.normalisation.deviation
    images = torch.from_numpy(inputs.few_photos(preset.spec))
    pixels = graph.PixelsIn(nn.Identity(), mean, deviation)(images)
    if isinstance(network, Detector):
        enliven_detector(network, pixels)
    else:
        enliven(network, nn.functional.interpolate(pixels, size=(128, 128)))
    own, _ = preset.place(network, {})
    path = folder / f"{architecture}.pth"
    torch.save(own.state_dict(), path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return captured.out

    return run


@pytest.mark.parametrize(
    ("architecture", "classes", "options", "output"),
    [
        ("ssdlite320_mobilenet_v3_large", 91, (), "detections"),
        ("lraspp_mobilenet_v3_large", 21, ("--size", "96x128"), "class_map"),
    ],
)
def test_weights_become_a_verified_bundle(
    architecture: str,
    classes: int,
    options: tuple[str, ...],
    output: str,
    run: Callable[..., str],
    tmp_path: Path,
) -> None:
    weights, models = live_weights(architecture, classes, tmp_path), tmp_path / "models"
    run("torchvision", architecture, "--weights", weights, "--name", "mine", "--out", models, *options)
    manifest = json.loads((models / "mine" / "1" / "manifest.json").read_text(encoding="utf-8"))
    (entry,) = manifest["parity"]["outputs"]
    assert entry["output"] == output
    assert entry.get("max_difference", 0) <= entry["tolerance"]
    (rounding,) = manifest["parity"]["rounding"]
    assert rounding["max_difference"] > 0
    assert "same SHA-256" in run("verify", models / "mine", "--weights", weights)
    assert "the bundle itself" in run("verify", models / "mine")
