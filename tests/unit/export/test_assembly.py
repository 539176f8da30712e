"""From network to bundle: what it says is what was measured, and a graph that differs is never written."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny
from torch import nn

from retinue_export import assembly
from retinue_export.assembly import Quality
from retinue_export.errors import ParityError
from retinue_export.packaging import SingleOutput
from retinue_export.precision import Precision, Wanted
from retinue_server.bundle import manifest as manifest_file


def ignore(stage: str) -> None: ...


def test_a_candidate_becomes_a_bundle_with_certificate_and_quality(tmp_path: Path) -> None:
    quality = Quality(
        "noise", 3, lambda runner: {"rows": float(len(runner(tiny.images(3))["probabilities"]))}
    )
    folder = assembly.build(tiny.candidate(quality), tmp_path, 1, ignore)
    manifest = manifest_file.read(folder)
    manifest_file.check_hash(folder, manifest)
    assert manifest_file.input_spec(manifest) == tiny.SPEC
    assert manifest.precision == pb.PRECISION_FP16_WEIGHTS
    assert list(manifest.parity.batch_sizes) == [1, 2, 7, 32]
    assert manifest.parity.images == 9
    assert 0 <= manifest.parity.outputs[0].max_difference <= 1e-4
    assert manifest.parity.rounding[0].max_difference > 0
    assert [(figure.engine, figure.value) for figure in manifest.quality] == [
        ("pytorch", 3),
        ("onnxruntime", 3),
    ]


def test_the_certificate_names_only_what_was_done_to_the_module(tmp_path: Path) -> None:
    folded = assembly.build(tiny.candidate(), tmp_path, 1, ignore)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 3, 3)).eval()
    unfolded = assembly.build(
        replace(tiny.candidate(), network=plain), tmp_path, 2, ignore, Wanted(Precision.FP32)
    )
    assert manifest_file.read(folded).parity.reference == (
        "tests.tiny.network, batch normalisation folded into the convolutions, weights rounded to 16-bit floats"
    )
    assert manifest_file.read(unfolded).parity.reference == "tests.tiny.network"


def test_the_manifest_names_the_opset_that_the_graph_has(tmp_path: Path) -> None:
    folder = assembly.build(tiny.candidate(), tmp_path, 1, ignore)
    (opset,) = onnx.load(folder / "model.onnx").opset_import
    assert manifest_file.read(folder).opset == opset.version


def test_a_graph_that_differs_from_pytorch_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SingleOutput.graph

    def of_another_network(packaging: SingleOutput, network: nn.Module) -> onnx.ModelProto:
        return honest(packaging, tiny.network(seed=5))

    monkeypatch.setattr(SingleOutput, "graph", of_another_network)
    with pytest.raises(ParityError, match="probabilities"):
        assembly.build(tiny.candidate(), tmp_path, 1, ignore)
    assert list(tmp_path.rglob("*")) == []


class _Faint(nn.Module):
    """Weights that 16-bit floats round to 0, on values as large as these are small."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny.network()
        self.last = nn.Linear(3, 3, bias=False)
        self.last.weight.data = 1e-9 * torch.eye(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(1e9 * self.network(images))


def test_weights_that_16_bits_cannot_hold_are_refused_unless_they_are_kept(tmp_path: Path) -> None:
    candidate = replace(tiny.candidate(), network=_Faint().eval())
    with pytest.raises(
        ParityError, match=r"With weights of 16 bits output `probabilities` differs by up to .* fp32"
    ):
        assembly.build(candidate, tmp_path, 1, ignore)
    assert list(tmp_path.rglob("*")) == []
    assembly.build(candidate, tmp_path, 1, ignore, Wanted(Precision.FP32))
