"""The bundles that are measured: two of those that the repository ships, and two exported here when first needed.

ResNet-50's weights are random but live, see `retinue_export.catalogue.liveness`: it is as fast as the trained network.
"""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.machine import ROOT

MOBILENET_V2, FASHION_CNN, RESNET_50, LENET_5 = "mobilenet-v2", "fashion-cnn", "resnet-50", "lenet-5"
_WORK = ROOT / ".work" / "bench"
_SHIPPED = (MOBILENET_V2, FASHION_CNN)


@cache
def folder() -> Path:
    """A models folder with all of them, made where there is none yet."""
    models = _WORK / "models"
    models.mkdir(parents=True, exist_ok=True)
    for name in _SHIPPED:
        shutil.copytree(ROOT / "models" / name, models / name, dirs_exist_ok=True)
    if not (models / RESNET_50).exists():
        _export_resnet(models)
    if not (models / LENET_5).exists():
        _export_lenet(models)
    return models


def bundle(name: str) -> Path:
    """The folder of one of them."""
    return folder() / name / "1"


def _export_resnet(models: Path) -> None:
    # Not needed, and slow to import, where the bundle is there.
    import torch  # noqa: PLC0415

    from retinue_export.catalogue import proof, rows  # noqa: PLC0415

    (row,) = rows.matching(["resnet50"])
    weights = _WORK / "resnet50.pth"
    torch.save(proof.live(row).network.state_dict(), weights)
    _export("torchvision", "resnet50", "--weights", str(weights), "--name", RESNET_50, "--out", str(models))
    weights.unlink()


def _export_lenet(models: Path) -> None:
    labels = _WORK / "digits.txt"
    labels.write_text("".join(f"{digit}\n" for digit in range(10)), encoding="utf-8")
    network = f"{ROOT / 'benchmarks' / 'lenet.py'}:build"
    looks = ("--size", "28", "--grey", "--mean", "0.1307", "--std", "0.3081")
    _export("module", network, *looks, "--labels", str(labels), "--name", LENET_5, "--out", str(models))


def _export(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name("retinue-export"), *arguments], check=True)
