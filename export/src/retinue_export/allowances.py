"""What a number format may change in a network's answers, and what a bundle's graph may when it is compared again."""

import math
from collections.abc import Iterable, Mapping

from retinue.v1 import manifest_pb2 as pb

from retinue_export.errors import ExportError, ParityError
from retinue_export.parity import TOLERANCES
from retinue_export.precision import CONVERTED, is_converted, short_name

_SLACK = 1.5
_AGREEMENT = "_agreement"
_LARGEST = {"probabilities": 0.05}
_LEAST_AGREEMENT = 0.95
"""What 16 bits may change. Where answers are nearly equal in both formats, another one may win."""


def allow_again(rounding: Iterable[pb.OutputParity]) -> None:
    """Lets a converted graph differ by somewhat more when it is compared again, perhaps on another machine."""
    for entry in rounding:
        entry.tolerance = _SLACK * entry.max_difference + TOLERANCES[entry.output]


def at_export(manifest: pb.ModelManifest) -> Mapping[str, pb.OutputParity]:
    """How far the graph that is in a bundle was from its other side at export, by output.

    Of a converted graph that is what the conversion changed.
    """
    entries = manifest.parity.rounding if is_converted(manifest) else manifest.parity.outputs
    return {entry.output: entry for entry in entries}


def check_means(measured: Iterable[pb.OutputParity], recorded: Mapping[str, pb.OutputParity]) -> None:
    """Holds what a converted graph differs by on the mean now against what it did at export.

    Raises:
        ParityError: an output differs by far more.
    """
    for entry in measured:
        before = recorded[entry.output].mean_difference if entry.output in recorded else 0.0
        if not entry.mean_difference <= _SLACK * before + TOLERANCES[entry.output]:
            raise ParityError(
                f"Output `{entry.output}` differs from PyTorch by {entry.mean_difference:.3g} on the mean, "
                f"much more than the {before:.3g} at export."
            )


def check_16_bits(rounding: Iterable[pb.OutputParity], agreement: Mapping[str, float], form: str) -> None:
    """Holds what a number format of 16 bits changed in the answers against what it may change.

    Args:
        rounding: by how much outputs differ.
        agreement: how often answers agree, see `quality.agreement`.
        form: where they do, for the message: "In FP16".

    Raises:
        ParityError: it changed more, or made answers that are not finite. An overflow that a later operator hides, as
            Clip does, is held only against what it changed.
    """
    for entry in rounding:
        limit = _LARGEST.get(entry.output, math.inf)
        if not (math.isfinite(entry.max_difference) and entry.max_difference <= limit):
            raise ParityError(
                f"{form} output `{entry.output}` differs by up to {entry.max_difference:.3g}: "
                "export it with --precision fp32."
            )
    for metric, value in agreement.items():
        if not value >= _LEAST_AGREEMENT:
            raise ParityError(
                f"{form} only {100 * value:.1f} % of the answers stay as they were ({metric}): "
                "export it with --precision fp32."
            )


def check_drop(
    quality: Iterable[pb.QualityMeasurement], precision: pb.Precision.ValueType, max_drop: float
) -> None:
    """Holds a format's quality against PyTorch's, or where nothing was labelled, its agreement with full precision.

    Args:
        quality: what was measured.
        precision: the format.
        max_drop: by how many points, hundredths, a figure may be lower.

    Raises:
        ParityError: one is lower by more.
        ExportError: the format was converted to, and nothing was found that shows what that changed.
    """
    measured = list(quality)
    before = {figure.metric: figure.value for figure in measured if figure.engine == "pytorch"}
    after = [figure for figure in measured if figure.engine != "pytorch" and figure.precision == precision]
    if precision in CONVERTED and not after:
        quantised = precision == pb.PRECISION_INT8
        raise ExportError(
            f"The network detects nothing on the images that {short_name(precision)} is compared with fp32 on, so what "
            f"it changes cannot be seen: give --labelled{', or other images to --calibration' if quantised else ''}."
        )
    for figure in after:
        agreement = figure.metric.endswith(_AGREEMENT)
        if agreement and (before or precision == pb.PRECISION_FP16):
            continue
        expected = 1.0 if agreement else before[figure.metric]
        drop = 100 * (expected - figure.value)
        if not drop <= max_drop + 1e-9:
            raise ParityError(
                f"{figure.metric} falls from {expected:.4f} to {figure.value:.4f} in {short_name(precision)} "
                f"({figure.images} images, {figure.dataset}): {drop:.2f} points, and --max-drop allows {max_drop:g}."
            )
