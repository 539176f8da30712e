"""Weights files: read whatever wrapped them, refused in one sentence, and never executed."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.unit.export import tiny
from torch import nn

from retinue_export import weight_files
from retinue_export.errors import ExportError

STATE = tiny.network(seed=3).state_dict()


def loads(path: Path) -> bool:
    """Whether the file gives the tiny network the weights of `STATE`."""
    network = tiny.network(seed=4)
    weight_files.load_into(network, weight_files.read(path), "tiny")
    return all(torch.equal(value, STATE[name]) for name, value in network.state_dict().items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert loads(tmp_path / "w.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model"])
def test_what_a_training_wraps_around_the_weights_is_taken_off(
    prefix: str, entry: str | None, tmp_path: Path
) -> None:
    state = {prefix + name: value for name, value in STATE.items()}
    torch.save(state if entry is None else {"epoch": 3, entry: state, "lr": 0.1}, tmp_path / "w.pth")
    assert loads(tmp_path / "w.pth")


def test_a_network_whose_own_names_begin_alike_is_not_unwrapped(tmp_path: Path) -> None:
    network = torch.nn.Sequential(tiny.network(seed=3))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    again = torch.nn.Sequential(tiny.network(seed=4))
    weight_files.load_into(again, weight_files.read(tmp_path / "w.pth"), "tiny")
    assert torch.equal(again.state_dict()["0.0.weight"], STATE["0.weight"])


def classifier(classes: int) -> nn.Module:
    """Its matrices in a file are not in the order in which they are run."""
    return nn.ModuleDict(
        {"head": nn.Linear(4, classes), "stem": nn.Linear(9, 4), "twin": nn.Linear(4, classes)}
    )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_for_another_number_of_classes_are_known_by_it(prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in classifier(7).state_dict().items()}
    assert weight_files.other_class_count(classifier(9), state, 9) == 7
    assert weight_files.other_class_count(classifier(7), state, 7) is None


def test_weights_that_differ_in_more_than_their_classes_are_for_no_number_of_them() -> None:
    wider = nn.ModuleDict({"head": nn.Linear(5, 7), "stem": nn.Linear(9, 5), "twin": nn.Linear(5, 7)})
    assert weight_files.other_class_count(classifier(9), wider.state_dict(), 9) is None
    assert weight_files.other_class_count(classifier(9), STATE, 9) is None


def test_thousands_of_names_that_do_not_fit_are_not_all_listed() -> None:
    with pytest.raises(ExportError) as refused:
        weight_files.load_into(nn.Sequential(*(nn.Linear(1, 1) for _ in range(1000))), STATE, "it")
    assert len(str(refused.value)) < 400


def test_weights_of_another_network_are_refused_by_name() -> None:
    state = {name: value for name, value in STATE.items() if name != "5.bias"}
    with pytest.raises(ExportError, match=r"do not fit tiny: .*5\.bias"):
        weight_files.load_into(tiny.network(), state, "tiny")


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 100])
def test_broken_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.safetensors cannot be read as safetensors"):
        weight_files.read(path)


@pytest.mark.parametrize("name", [1, None, (1, 2)])
def test_tensors_by_what_are_no_names_are_no_state_dict(name: object, tmp_path: Path) -> None:
    torch.save({"state_dict": {name: torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match="no state dict"):
        weight_files.read(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.complex64])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_another_kind_of_number_are_refused(kind: torch.dtype, prefix: str) -> None:
    state = {prefix + name: value.to(kind) for name, value in STATE.items()}
    with pytest.raises(ExportError, match=rf"do not fit tiny: `0\.weight` is {kind}, not torch\.float32"):
        weight_files.load_into(tiny.network(), state, "tiny")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(kind: torch.dtype) -> None:
    weight_files.load_into(tiny.network(), {name: value.to(kind) for name, value in STATE.items()}, "tiny")


class _Dangerous:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    torch.save({"weight": _Dangerous(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ExportError, match="could run code"):
        weight_files.read(tmp_path / "evil.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"junk\n", b"not weights at all", b"PK\x03\x04cut short", b"\x80\x02]q", b"\x80\x02\x8a\nlF"],
)
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.pth"):
        weight_files.read(path)


def test_a_pickle_of_pythons_own_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(STATE))
    with pytest.raises(ExportError, match="could run code"):
        weight_files.read(path)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_file_is_refused_and_nobody_is_told_to_unpickle_it(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pth"
    torch.jit.save(torch.jit.script(tiny.network()), path)
    with pytest.raises(ExportError, match=r"save them as torch\.save\(model\.state_dict") as refused:
        weight_files.read(path)
    assert "weights_only" not in str(refused.value)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="There is no weights file"):
        weight_files.read(tmp_path / "none.pth")


def test_a_single_tensor_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ExportError, match="no state dict"):
        weight_files.read(tmp_path / "tensor.pth")


def test_classes_are_counted_where_a_layer_answers_several_numbers_of_each() -> None:
    def detector(classes: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "norm": nn.BatchNorm2d(2),
                "scores": nn.Linear(5, 3 * classes),
                "boxes": nn.Linear(5, 4 * classes),
            }
        )

    frozen = {
        name: value
        for name, value in detector(7).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert weight_files.other_class_count(detector(2), frozen, 2) == 7
    assert weight_files.other_class_count(detector(7), frozen, 7) is None
