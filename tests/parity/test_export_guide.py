"""docs/export.md: its file, its commands and its answers, from a checkpoint to what a caller gets."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests import readme
from tests.server_process import ROOT, running_server
from tests.unit.export import foreign

from retinue_client import Client
from retinue_export import user_code

GUIDE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def block(language: str, containing: str) -> str:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if containing in block)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader of the guide has: the file, weights, labels and a picture."""
    (tmp_path / "lenet.py").write_text(block("python", "LeNet-5"), encoding="utf-8")
    (tmp_path / "digits.txt").write_text("".join(f"{digit}\n" for digit in DIGITS), encoding="utf-8")
    torch.manual_seed(7)
    save_file(user_code.build(f"{tmp_path / 'lenet.py'}:build").state_dict(), tmp_path / "lenet.safetensors")
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "three.png")
    return tmp_path


def test_the_guide_leads_to_a_served_model(folder: Path) -> None:
    export, verify, serve, classify = block("sh", "retinue-export module").splitlines()
    readme.run(export, folder=folder)
    assert "same SHA-256" in readme.run(verify, folder=folder)
    assert shlex.split(serve)[0] == "retinue-server"

    with running_server(folder / "models") as server:
        printed = readme.run(classify, server, folder=folder)
        with Client(server.grpc_address) as client:
            served = client.classify(folder / "three.png", model="lenet-5", top_k=10)

    pixels = torch.from_numpy(np.array(Image.open(folder / "three.png"), np.float32) / 255)
    network = user_code.build(f"{folder / 'lenet.py'}:build").eval()
    network.load_state_dict(_rounded(folder / "lenet.safetensors"))
    with torch.no_grad():
        expected = network((pixels - 0.1307).view(1, 1, 32, 32) / 0.3081).softmax(1)[0]
    assert served.classes[0].label in printed
    for found in served.classes:
        assert found.score == pytest.approx(expected[found.class_id].item(), abs=1e-4)


def _rounded(path: Path) -> dict[str, torch.Tensor]:
    """Weights as the bundle stores them."""
    return {
        name: value.half().float() if value.ndim > 1 else value for name, value in load_file(path).items()
    }


def test_foreign_files_are_adopted_as_the_guide_says(tmp_path: Path) -> None:
    names = ["cat", "dog", "mug"]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo11n.onnx", names)
    levels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True}
    foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", names, {"size": 64, **levels})
    foreign.export(
        foreign.Classifier(3), tmp_path / "colleague.onnx", (torch.rand(1, 3, 224, 224),), ["x"], ["y"]
    )
    *adoptions, verify = block("sh", "retinue-export adopt").splitlines()
    assert len(adoptions) == 3
    for adoption in adoptions:
        assert "differences from the original" in readme.run(adoption, folder=tmp_path)
    assert "same SHA-256" in readme.run(verify, folder=tmp_path)
