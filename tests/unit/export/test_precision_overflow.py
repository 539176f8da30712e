"""Weights and values outside of what 16 bits hold: no such bundle is written, whatever the network's task."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.export import tiny_tasks
from torch import nn

from retinue_export import assembly
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError, ParityError
from retinue_export.precision import Precision, Wanted


def ignore(stage: str) -> None: ...


Candidates = Callable[[nn.Module], Candidate]
TASKS = (tiny_tasks.classify, tiny_tasks.segment, tiny_tasks.detect, tiny_tasks.detect_counted)


@pytest.mark.parametrize("candidate", TASKS)
def test_weights_too_large_for_16_bits_are_refused_unless_they_are_kept(
    candidate: Candidates, tmp_path: Path
) -> None:
    large = candidate(tiny_tasks.network(first=1e-6, last=1e6))
    with pytest.raises(
        ExportError, match=r"weight `.*weight` has values of up to .*e\+05, .* 65,504: .* fp32"
    ):
        assembly.build(large, tmp_path, 1, ignore)
    assert list(tmp_path.rglob("*")) == []
    assembly.build(large, tmp_path, 1, ignore, Wanted(Precision.FP32))


@pytest.mark.parametrize("candidate", TASKS)
def test_weights_too_small_for_16_bits_are_refused_unless_they_are_kept(
    candidate: Candidates, tmp_path: Path
) -> None:
    faint = candidate(tiny_tasks.network(between=1e9, last=1e-9))
    with pytest.raises(ParityError, match=r"With weights of 16 bits (output|only) .* fp32"):
        assembly.build(faint, tmp_path, 1, ignore)
    assert list(tmp_path.rglob("*")) == []
    assembly.build(faint, tmp_path, 1, ignore, Wanted(Precision.FP32))


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (tiny_tasks.classify, "output `probabilities` differs by up to nan"),
        (tiny_tasks.segment, r"only .* of the answers stay as they were \(pixel_agreement\)"),
        (tiny_tasks.detect, r"only .* of the answers stay as they were \(detection_agreement\)"),
        (tiny_tasks.detect_counted, r"only .* of the answers stay as they were \(detection_agreement\)"),
    ],
)
def test_what_overflows_in_fp16_is_not_written(candidate: Candidates, said: str, tmp_path: Path) -> None:
    overflowing = candidate(tiny_tasks.network(first=2e5, last=1e-4))
    with pytest.raises(ParityError, match=f"In FP16 {said}"):
        assembly.build(overflowing, tmp_path, 1, ignore, Wanted(Precision.FP16))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("candidate", [tiny_tasks.segment, tiny_tasks.detect])
@pytest.mark.parametrize("precision", [Precision.FP16_WEIGHTS, Precision.FP16])
def test_what_16_bits_hold_is_written(candidate: Candidates, precision: Precision, tmp_path: Path) -> None:
    assembly.build(candidate(tiny_tasks.network()), tmp_path, 1, ignore, Wanted(precision))
