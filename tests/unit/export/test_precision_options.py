"""`--precision` and what goes with it, from the command line to the bundle and back."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export.test_cli import run

from retinue_export import speed
from retinue_export.cli.asked import Asked
from retinue_export.errors import ExportError
from retinue_export.precision import Precision
from retinue_server.bundle import manifest as manifest_file
from retinue_server.errors import StartupError

MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        network[4].weight *= 20
    return network
"""


@pytest.fixture
def module(tmp_path: Path) -> tuple[str, ...]:
    """The command that exports a network of two classes to the folder `out`, and noise to calibrate it with."""
    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "labels.txt").write_text("left\nright\n")
    noise = np.random.default_rng(0)
    for number in range(12):
        pixels = noise.integers(0, 256, (8, 8, 3), np.uint8)
        for folder in ("photos", f"labelled/{('left', 'right')[number % 2]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    return (
        *("module", f"{tmp_path / 'net.py'}:build", "--name", "net", "--out", str(tmp_path / "out")),
        *("--labels", str(tmp_path / "labels.txt"), "--size", "8"),
        *("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"),
    )


def test_an_int8_bundle_is_measured_before_and_after_and_verified_again(
    module: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ("--calibration", str(tmp_path / "photos"), "--labelled", str(tmp_path / "labelled"))
    code, out, _ = run(capsys, *module, "--precision", "int8", *folders, "--max-drop", "50")
    assert code == 0
    assert "; on 9 images of photos; " in out
    assert "(labelled; pytorch, fp32)" in out
    assert "(labelled; onnxruntime, int8)" in out
    assert "top1_agreement" in out
    manifest = manifest_file.read(tmp_path / "out" / "net" / "1")
    assert [(figure.metric, figure.precision) for figure in manifest.quality] == [
        ("top1_accuracy", pb.PRECISION_FP32),
        ("top1_accuracy", pb.PRECISION_INT8),
        ("top1_agreement", pb.PRECISION_INT8),
    ]
    code, out, _ = run(
        capsys, "verify", str(tmp_path / "out" / "net"), "--module", f"{tmp_path / 'net.py'}:build"
    )
    assert code == 0
    assert "computes   in int8" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "int8"), "--precision int8 needs --calibration FOLDER"),
        (("--precision", "auto"), "--precision auto needs --calibration FOLDER"),
        (("--precision", "int8", "--calibration", "photos"), "give --labelled FOLDER"),
        (("--precision", "fp32", "--calibration", "photos"), "no meaning with --precision fp32"),
        (("--precision", "int8", "--provider", "cpu"), "no other use"),
        (("--precision", "int8", "--calibration", "none", "--max-drop", "5"), "There is no folder none"),
        (("--precision", "int8", "--calibration", "empty", "--max-drop", "5"), "empty has 0 images"),
        (("--max-drop", "5"), "--max-drop has no meaning with --precision fp16-weights unless --labelled"),
        (("--precision", "fp32", "--max-drop", "5"), "--max-drop has no meaning with --precision fp32"),
        (("--precision", "fp16", "--max-drop", "5"), "--max-drop has no meaning with --precision fp16"),
        (("--labelled", "photos", "--max-drop", "inf"), "--max-drop inf must be 0 to 100"),
        (("--labelled", "photos", "--max-drop", "nan"), "--max-drop nan must be 0 to 100"),
        (("--labelled", "none"), "There is no folder none of labelled images"),
        (("--labelled", "photos"), "has no folders with images"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(
    module: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, *module, *options)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused_before_weights_are_read(
    module: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    (tmp_path / "net.py").write_text("raise AssertionError('read')")
    code, _, err = run(capsys, *module, "--precision", "auto", "--provider", "cuda")
    assert code == 2
    assert "--provider cuda cannot run here: the installed ONNX Runtime has none" in err
    assert "install retinue-export[gpu] instead of retinue-export[cpu]" in err
    assert "retinue-server" not in err
    assert "--provider auto" not in err


def test_a_gpu_without_its_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_options: object) -> None:
        raise StartupError("Use --provider auto to fall back to the CPU.")

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("retinue_server.runtime.providers.choose", refuse)
    speed.choose.cache_clear()
    with pytest.raises(
        ExportError, match=r"the driver, or a library .* With --provider cpu speed is measured"
    ):
        speed.choose("cuda")


@pytest.mark.parametrize("calibration", [None, Path("photos")])
def test_without_labels_and_int8_nothing_can_drop(
    monkeypatch: pytest.MonkeyPatch, calibration: Path | None
) -> None:
    monkeypatch.setattr(speed, "choose", lambda requested: None)
    asked = Asked(Precision.AUTO, calibration, max_drop=5, provider="cuda")
    if calibration is None:
        with pytest.raises(ExportError, match="--max-drop has no meaning with --precision auto unless"):
            asked.check()
    else:
        asked.check()
