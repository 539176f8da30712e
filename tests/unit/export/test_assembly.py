"""From network to bundle: what it says is what was measured, and a graph that differs is never written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny, tiny_tasks
from torch import nn

from retinue_export import assembly, precision
from retinue_export.assembly import Quality
from retinue_export.cli.build import print_bundle
from retinue_export.errors import ExportError, ParityError
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


@pytest.mark.parametrize("detector", [tiny_tasks.detect, tiny_tasks.detect_counted])
def test_a_certificate_of_nothing_found_says_so(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    detector: Callable[[nn.Module], assembly.Candidate],
) -> None:
    folder = assembly.build(detector(tiny_tasks.network(bias=-9)), tmp_path, 1, ignore)
    certificate = manifest_file.read(folder).parity
    assert not certificate.outputs
    assert not certificate.rounding
    assert "the reference finds nothing" in certificate.inputs
    print_bundle(folder)
    assert "9 images, on which nothing was found" in capsys.readouterr().out


def test_what_fp16_changes_in_a_detector_that_finds_nothing_is_judged_on_labelled_images_only(
    tmp_path: Path,
) -> None:
    candidate = tiny_tasks.detect(tiny_tasks.network(bias=-9))
    with pytest.raises(ExportError, match="detects nothing on the images that fp16 is compared with fp32 on"):
        assembly.build(candidate, tmp_path, 1, ignore, Wanted(Precision.FP16))
    assert list(tmp_path.rglob("*")) == []
    labelled = replace(candidate, quality=Quality("noise", 9, lambda _runner: {"map_50": 0.5}))
    manifest = manifest_file.read(assembly.build(labelled, tmp_path, 1, ignore, Wanted(Precision.FP16)))
    assert [figure.metric for figure in manifest.quality] == ["map_50", "map_50"]
    assert precision.compared_as(manifest) == pb.PRECISION_FP16
