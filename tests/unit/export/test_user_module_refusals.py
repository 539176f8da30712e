"""Networks of the user's own that misbehave: refused in one sentence, with what to do about it, and nothing written."""

from pathlib import Path

import pytest
import torch
from tests.unit.export.command import run

from retinue_export.user_code import told_in_one_sentence
from retinue_server.bundle import manifest as manifest_file

SOURCE = """
import sys
import threading

import torch
from torch import nn


class Classifier(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Counting(Classifier):
    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * self.calls


class Drawing(Classifier):
    def forward(self, images):
        return super().forward(images) + 3 * torch.randn(3)


class Exiting(Classifier):
    def forward(self, images):
        sys.exit()


class ExitingExport(Classifier):
    def forward(self, images):
        if torch.compiler.is_exporting():
            sys.exit()
        return super().forward(images)


class OtherwiseTraced(Classifier):
    def forward(self, images):
        return super().forward(images) * (1 if torch.compiler.is_exporting() else 4)


class NotANumber(Classifier):
    def forward(self, images):
        return super().forward(images) * float("nan")


class Infinite(Classifier):
    def forward(self, images):
        return super().forward(images) * float("inf")


class Masked(Classifier):
    def forward(self, images):
        return super().forward(images) + torch.tensor([0, 0, -float("inf")])


class DoubleAnswer(Classifier):
    def forward(self, images):
        return super().forward(images).double()


class AlwaysTraining(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


def always_training():
    return nn.Sequential(Classifier(), AlwaysTraining())


class NoEval(Classifier):
    def train(self, mode=True):
        raise ValueError("no modes here")


class NoCopies(Classifier):
    def __deepcopy__(self, memo):
        raise ValueError("one only")


def locked():
    made = Classifier()
    made.guard = threading.Lock()
    return made


def caching():
    made = Classifier()
    made.cache = made[0].weight * 2
    return made


def normed_by_a_hook():
    made = Classifier()
    nn.utils.weight_norm(made[0])
    return made


def faint():
    made = Classifier()
    nn.init.zeros_(made[0].bias)
    nn.init.constant_(made[0].weight, 1e-9)
    made[4].weight.data *= 1e4
    return made


def double():
    return Classifier().double()


def half():
    return Classifier().half()


class OwnInterruption(BaseException):
    pass


def interrupting():
    raise OwnInterruption("enough")


def closing():
    raise GeneratorExit


class Detector(nn.Module):
    def forward(self, images):
        scores = nn.functional.adaptive_avg_pool2d(images, (3, 3)).squeeze(1).sigmoid()
        boxes = torch.tensor([[0.0, 0, 10, 4], [1, 4, 10, 8], [0, 7, 9, 12]])
        return boxes.expand(images.shape[0], -1, -1), scores


class NowhereDetector(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes * float("nan"), scores


class UnsureDetector(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes, scores * float("nan")


class BlindDetector(Detector):
    def forward(self, images):
        boxes, scores = super().forward(images)
        return boxes, scores * 0
"""
OPTIONS = ("--name", "mine", "--size", "12", "--grey", "--mean", "0.5", "--std", "0.5", "--out", "out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, to work in: a Python file and labels."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    return tmp_path


def export(capsys: pytest.CaptureFixture[str], maker: str, *more: str) -> tuple[int, str, str]:
    return run(capsys, "module", f"mine.py:{maker}", *OPTIONS, "--labels", "labels.txt", *more)


def is_one_sentence(err: str) -> bool:
    return err.startswith("error: ") and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        ("Counting", "not deterministic, or keeps state"),
        ("Drawing", "not deterministic, or keeps state"),
        (
            "Exiting",
            "cannot take float32 [2, 1, 12, 12], give --size and --grey as in its training: SystemExit.",
        ),
        ("NotANumber", "answers NaN or infinite numbers: look at its weights"),
        ("Infinite", "answers NaN or infinite numbers: look at its weights"),
        ("DoubleAnswer", "returns torch.float64 [2, 3] for [2, 1, 12, 12], not float32 logits"),
        ("always_training", "stays in training mode after eval(), at least a AlwaysTraining in it"),
        ("NoEval", "eval() fails: ValueError: no modes here"),
        ("NoCopies", "keep no locks or computed tensors as attributes of it: ValueError: one only"),
        ("locked", "cannot be copied, keep no locks"),
        ("caching", "cannot be copied, keep no locks or computed tensors"),
        ("double", "make its weights float32 by .float(): RuntimeError"),
        ("half", "make its weights float32 by .float(): RuntimeError"),
        ("interrupting", "mine.py:interrupting cannot be built: OwnInterruption: enough"),
        ("closing", "mine.py:closing cannot be built: GeneratorExit (line "),
    ],
)
def test_a_classifier_that_misbehaves_is_refused_in_one_sentence(
    maker: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, maker)
    assert code == 2
    assert said in err
    assert "fp32" not in err
    assert is_one_sentence(err)
    assert not list(folder.rglob("*.onnx"))


@pytest.mark.parametrize("options", [(), ("--no-heatmap",)])
def test_a_module_that_ends_the_program_while_it_is_exported_is_refused(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, "ExitingExport", *options)
    assert (code, "ends the program" in err, is_one_sentence(err)) == (2, True, True)
    assert not list(folder.rglob("*.onnx"))


def test_export_and_verify_compare_with_the_module_itself_and_not_with_its_trace(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, "OtherwiseTraced")
    assert (code, "`probabilities` differs from PyTorch" in err) == (1, True)
    assert not list(folder.rglob("*.onnx"))
    torch.manual_seed(0)
    assert export(capsys, "Classifier")[0] == 0
    torch.manual_seed(0)
    code, _, err = run(capsys, "verify", "out/mine", "--module", "mine.py:OtherwiseTraced")
    assert (code, "`probabilities` differs from PyTorch" in err) == (1, True)


@pytest.mark.parametrize("maker", ["NowhereDetector", "UnsureDetector"])
def test_a_detector_that_answers_no_numbers_is_refused(
    maker: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, maker, "--task", "detect")
    assert (code, "answers NaN or infinite numbers" in err, is_one_sentence(err)) == (2, True, True)
    assert not list(folder.rglob("*.onnx"))


def test_a_detector_that_finds_nothing_is_exported_with_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = export(capsys, "BlindDetector", "--task", "detect")
    assert (code, "finds nothing on them, so there was nothing to compare" in out) == (0, True)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("maker", ["Masked", "normed_by_a_hook"])
def test_infinity_that_a_softmax_takes_and_hooks_that_compute_weights_are_not_refused(
    maker: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, maker)
    assert (code, err) == (0, "")
    assert manifest_file.read(folder / "out" / "mine" / "1").parity.outputs[0].max_difference <= 1e-4


def test_where_rounded_weights_leave_no_heatmap_it_is_said_how_to_export(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = export(capsys, "faint")
    assert code == 2
    assert "No heatmap can be had from the network that is in the bundle" in err
    assert "--precision fp32 or --no-heatmap" in err
    assert export(capsys, "faint", "--precision", "fp32")[0] == 0


def test_an_interruption_from_the_keyboard_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), told_in_one_sentence("It fails"):
        raise KeyboardInterrupt
