"""A network of the user's own: exported and verified from a Python file, and refused in one sentence."""

import json
from pathlib import Path

import pytest
import torch
from retinue.v1 import manifest_pb2 as pb
from safetensors.torch import save_file
from tests.unit.export.command import run

from retinue_export import parity, user_code
from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file

SOURCE = """
import dataclasses

import torch
from torch import nn
from torchvision.ops import roi_pool

from widths import WIDTH


@dataclasses.dataclass
class Settings:
    classes: "int" = 3


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.dense = nn.Linear(WIDTH, Settings().classes)

    def forward(self, images):
        return self.dense(self.norm(self.convolution(images)).relu().mean((2, 3)))


def segmenter():
    return nn.Conv2d(3, 3, 3, padding=1, stride=2)


class One(Classifier):
    def forward(self, images):
        return super().forward(images)[:, :1]


def mask():
    return nn.Conv2d(3, 1, 3)


class Peaks(Classifier):
    def forward(self, images):
        return self.dense(self.norm(self.convolution(images)).amax((2, 3)))


class OneAtATime(Classifier):
    def forward(self, images):
        return torch.stack([super(OneAtATime, self).forward(image[None])[0] for image in images])


class FixedBatch(Classifier):
    def forward(self, images):
        return super().forward(images.reshape(2, 3, 12, 10))


class Branch(Classifier):
    def forward(self, images):
        logits = super().forward(images)
        return logits if logits.sum() > 0 else -logits


class Boxes(Classifier):
    def forward(self, images):
        return {"boxes": images}


class Features(Classifier):
    def forward(self, images):
        return images


class Grey(Classifier):
    def forward(self, images):
        return super().forward(images[:, :1])


class Detector(nn.Module):
    # Three boxes, and how red and how green the image is around each.

    def forward(self, images):
        means = torch.nn.functional.adaptive_avg_pool2d(images[:, :2], (3, 1)).flatten(2)
        boxes = torch.tensor([[0.0, 0, 10, 4], [1, 4, 10, 8], [0, 7, 9, 12]])
        return boxes.expand(images.shape[0], -1, -1), means.sigmoid()


class InRegions(nn.Module):
    # How bright each region is in red and in green, pooled.

    def forward(self, images, regions):
        numbers = torch.arange(images.shape[0], dtype=regions.dtype).view(-1, 1, 1)
        rois = torch.cat([numbers.expand(-1, regions.shape[1], 1), regions], dim=2).flatten(0, 1)
        pooled = roi_pool(images[:, :2].contiguous(), rois, 2).mean(dim=(2, 3))
        area = (regions[..., 2] - regions[..., 0]) * (regions[..., 3] - regions[..., 1])
        scores = pooled.reshape(-1, regions.shape[1], 2).sigmoid() * (area > 0).unsqueeze(2)
        return regions, scores.transpose(1, 2)


class Unbounded(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes, scores * 20 - 10


class BoxesLast(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes.transpose(1, 2), scores


class Nothing(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes[:, :0], scores[..., :0]


class Triple(Detector):
    def forward(self, images):
        return *super().forward(images), images


def broken():
    raise RuntimeError("no such layer")


def number():
    return 7


def leaving():
    raise SystemExit(0)
"""
OPTIONS = ("--name", "mine", "--size", "12x10", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, to work in: a Python file, one that it imports, labels and weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "needing.py").write_text("import not_installed\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("red\ngreen\n", encoding="utf-8")
    (tmp_path / "widths.py").write_text("WIDTH = 4\n", encoding="utf-8")
    (tmp_path / "labels.txt").write_text("background\ncat\ndog\n", encoding="utf-8")
    torch.manual_seed(0)
    network = user_code.build("mine.py:Classifier")
    torch.nn.init.normal_(network.get_parameter("dense.weight"), std=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def export(
    capsys: pytest.CaptureFixture[str], target: str, *more: str, labels: str = "labels.txt"
) -> tuple[object, str]:
    code, _, err = run(capsys, "module", target, *OPTIONS, "--labels", labels, "--out", "out", *more)
    return code, err


def detector(capsys: pytest.CaptureFixture[str], target: str, *more: str) -> tuple[object, str]:
    return export(capsys, target, "--task", "detect", *more, labels="two.txt")


def test_a_classifier_becomes_a_bundle_that_verifies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = export(capsys, "mine.py:Classifier", "--weights", "w.safetensors", "--resize", "letterbox")
    assert (code, err) == (0, "")
    manifest = manifest_file.read(folder / "out" / "mine" / "1")
    assert manifest.source.architecture == "mine.py:Classifier"
    assert manifest.source.weights == "w.safetensors"
    assert list(manifest.input.normalisation.mean) == [0.5, 0.5, 0.5]
    assert manifest.parity.outputs[0].max_difference <= 1e-4
    module = ("--module", "mine.py:Classifier")
    code, out, _ = run(capsys, "verify", "out/mine", *module)
    assert (code, "the bundle itself" in out) == (0, True)
    code, out, _ = run(capsys, "verify", "out/mine", *module, "--weights", "w.safetensors")
    assert (code, "same SHA-256" in out) == (0, True)


def test_a_heatmap_is_made_and_verified_where_it_can_be_had_and_wanted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ("--labels", "labels.txt", "--out", "out", "--weights", "w.safetensors")
    _, out, _ = run(capsys, "module", "mine.py:Classifier", *OPTIONS, *weights)
    assert "heatmap 10x8" in out
    code, out, _ = run(capsys, "verify", "out/mine", "--module", "mine.py:Classifier")
    assert (code, "heatmap" in out) == (0, True)
    _, out, _ = run(
        capsys, "module", "mine.py:Classifier", *OPTIONS, *weights, "--version", "2", "--no-heatmap"
    )
    assert "heatmap" not in out
    code, out, _ = run(capsys, "module", "mine.py:Peaks", *OPTIONS, *weights, "--version", "3")
    assert (code, "no heatmap: what follows its last map of features" in out) == (0, True)
    sizes = [
        manifest_file.read(folder / "out" / "mine" / version).classify.heatmap_width for version in "123"
    ]
    assert sizes == [8, 0, 0]


def test_a_bundle_verified_with_another_module_is_found_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, "mine.py:Classifier", "--weights", "w.safetensors")
    code, _, err = run(capsys, "verify", "out/mine", "--module", "mine.py:Grey")
    assert code != 0
    assert err.startswith("error: ")
    code, _, err = run(capsys, "verify", "out/mine")
    assert (code, "--module FILE.py:FUNCTION" in err) == (2, True)


def test_a_segmenter_keeps_its_own_weights_and_finds_the_background(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded = (
        (folder / "mine.py")
        .read_text(encoding="utf-8")
        .replace("    return nn.Conv2d(3, 3", "    torch.manual_seed(1)\n    return nn.Conv2d(3, 3")
    )
    (folder / "mine.py").write_text(seeded, encoding="utf-8")
    assert export(capsys, "mine.py:segmenter", "--task", "segment") == (0, "")
    manifest = manifest_file.read(folder / "out" / "mine" / "1")
    assert manifest.task == pb.TASK_SEGMENT
    assert (manifest.segment.map_height, manifest.segment.map_width) == (6, 5)
    assert manifest.segment.background_class_id == 0
    code, out, _ = run(capsys, "verify", "out/mine", "--module", "mine.py:segmenter")
    assert (code, "as it builds them now" in out) == (0, True)


@pytest.mark.parametrize("options", [(), ("--regions", "6")])
def test_a_detector_becomes_a_bundle_that_verifies(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = "mine.py:InRegions" if options else "mine.py:Detector"
    suppression = ("--min-score", "0.2", "--iou-threshold", "0.4")
    assert detector(capsys, target, *suppression, *options) == (0, "")
    manifest = manifest_file.read(folder / "out" / "mine" / "1")
    assert manifest.task == pb.TASK_DETECT
    described = manifest.detect
    # As many rows as there are pairs of box and class, which are fewer than 100.
    assert (described.max_detections, described.max_regions) == ((12, 6) if options else (6, 0))
    assert described.min_score == pytest.approx(0.2)
    assert described.nms_iou_threshold == pytest.approx(0.4)
    assert described.default_score_threshold == pytest.approx(0.5)
    assert ("6 regions drawn in each" in manifest.parity.inputs) == bool(options)
    session = parity.session((folder / "out" / "mine" / "1" / "model.onnx").read_bytes())
    assert ("regions" in {value.name for value in session.get_inputs()}) == bool(options)
    code, out, _ = run(capsys, "verify", "out/mine", "--module", target)
    assert (code, "detections" in out) == (0, True)


def test_a_network_of_a_package_is_named_as_python_names_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "letters.txt").write_text("".join(f"{letter}\n" for letter in "abcdefghij"), encoding="utf-8")
    target = "retinue_export.zoo.lenet:LeNet5"
    options = ("--name", "lenet", "--size", "32", "--grey", "--mean", "0.5", "--std", "0.25", "--out", "out")
    code, _, err = run(capsys, "module", target, *options, "--labels", "letters.txt", "--precision", "fp32")
    assert (code, err) == (0, "")
    assert manifest_file.read(folder / "out" / "lenet" / "1").source.architecture == target


def test_a_package_of_the_working_directory_is_found(folder: Path) -> None:
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "networks.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Identity()\n", encoding="utf-8"
    )
    assert isinstance(user_code.build("mypackage.networks:build"), torch.nn.Identity)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("mine.py:Classifier", (), "returns a Tensor, not a pair of boxes [N, A, 4] in input pixels"),
        ("mine.py:Triple", (), "returns a tuple, not a pair of boxes"),
        ("mine.py:BoxesLast", (), "returns torch.float32 [2, 4, 3] and torch.float32 [2, 2, 3]"),
        ("mine.py:Nothing", (), "returns torch.float32 [2, 0, 4] and torch.float32 [2, 2, 0]"),
        ("mine.py:Unbounded", (), "end in a sigmoid or a softmax"),
        ("mine.py:Detector", ("--regions", "6"), "cannot take float32 [2, 3, 12, 10] and [2, 6, 4]"),
        ("mine.py:InRegions", (), "cannot take float32 [2, 3, 12, 10]"),
    ],
)
def test_a_detector_that_cannot_be_used_is_refused_in_one_sentence(
    target: str, options: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = detector(capsys, target, *options)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list(folder.rglob("*.onnx"))


def test_a_detectors_labels_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = export(capsys, "mine.py:Detector", "--task", "detect")
    assert code == 2
    assert "labels.txt has 3 labels, but the module answers 2 classes" in err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine.py", "FILE.py:FUNCTION"),
        ("mine.txt:build", "FILE.py:FUNCTION"),
        ("none.py:build", "There is no Python file none.py"),
        ("no/such:build", "package.module:FUNCTION"),
        ("retinue_export.zoo.lenet6:LeNet6", "Python finds no module retinue_export.zoo.lenet6"),
        ("retinue_export.zoo.lenet:LeNet6", "retinue_export.zoo.lenet has no function `LeNet6`"),
        ("needing:build", "ModuleNotFoundError: No module named 'not_installed'"),
        ("mine.py:nothing", "no function `nothing`"),
        ("mine.py:broken", "RuntimeError: no such layer"),
        ("mine.py:leaving", "SystemExit: 0"),
        ("mine.py:number", "makes a int, not a torch.nn.Module"),
        ("mine.py:Boxes", "returns a dict, not logits"),
        ("mine.py:Features", "not float32 logits [N, classes]"),
        ("mine.py:One", "answers one class, which would be the answer to everything"),
        ("mine.py:Grey", "cannot take float32 [2, 3, 12, 10]"),
        ("mine.py:FixedBatch", "cannot take float32 [1, 3, 12, 10], it must take any batch size"),
        ("mine.py:OneAtATime", "fixes the batch size"),
        ("mine.py:Branch", "exporter cannot follow the module"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused_in_one_sentence(
    target: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = export(capsys, target)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list((folder / "out").rglob("*.onnx")) if (folder / "out").exists() else True


def test_the_line_that_raised_is_named(folder: Path) -> None:
    line = next(number for number, text in enumerate(SOURCE.splitlines(), start=1) if "no such layer" in text)
    with pytest.raises(ExportError, match=rf"\(line {line}\)"):
        user_code.build("mine.py:broken")


def test_a_wrong_number_of_labels_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = export(capsys, "mine.py:Classifier", labels="two.txt")
    assert code == 2
    assert "two.txt has 2 labels, but the module answers 3 classes" in err


def test_a_class_map_needs_two_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = export(capsys, "mine.py:mask", "--task", "segment")
    assert (code, "answers one class" in err) == (2, True)


def test_a_class_map_has_room_for_256_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        (folder / "mine.py")
        .read_text(encoding="utf-8")
        .replace("nn.Conv2d(3, 3, 3, pad", "nn.Conv2d(3, 257, 3, pad")
    )
    (folder / "mine.py").write_text(source, encoding="utf-8")
    (folder / "many.txt").write_text("".join(f"class {number}\n" for number in range(257)), encoding="utf-8")
    code, err = export(capsys, "mine.py:segmenter", "--task", "segment", labels="many.txt")
    assert (code, "has room for 256" in err) == (2, True)


def test_a_bundle_that_does_not_say_how_it_normalises_is_not_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(capsys, "mine.py:Classifier")
    path = folder / "out" / "mine" / "1" / "manifest.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    del text["input"]["normalisation"]
    path.write_text(json.dumps(text), encoding="utf-8")
    code, _, err = run(capsys, "verify", "out/mine", "--module", "mine.py:Classifier")
    assert (code, "export it again" in err) == (2, True)
