"""The number formats that a network can be exported in: what each may lose, and which is the fastest."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx
from retinue.v1 import manifest_pb2 as pb

from retinue_export import half, parity, quantisation, speed
from retinue_export.errors import ExportError, ParityError
from retinue_export.image_folders import Calibration
from retinue_export.parity import TOLERANCES, Feeds, Runner
from retinue_server.runtime.providers import Provider

CONVERTED = (pb.PRECISION_FP16, pb.PRECISION_INT8)
"""What PyTorch's exporter cannot make."""
DEFAULT_MAX_DROP = 1.0
_SLACK = 1.5
_AGREEMENT = "_agreement"
_FP16_LARGEST = {"probabilities": 0.05}
_FP16_LEAST_AGREEMENT = 0.95
"""What 16-bit arithmetic may change. Where answers are nearly equal in both, another one may win."""


class Precision(StrEnum):
    """What `--precision` can ask for."""

    FP32 = "fp32"
    FP16_WEIGHTS = "fp16-weights"
    FP16 = "fp16"
    INT8 = "int8"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Wanted:
    """In which number format a bundle is to compute.

    Attributes:
        precision: see there. AUTO takes the fastest of FP32, INT8 and, on a GPU, FP16.
        calibration: images to quantise with; for INT8.
        max_drop: by how many points, hundredths, quality may fall.
        provider: where AUTO measures speed.
    """

    precision: Precision = Precision.FP16_WEIGHTS
    calibration: Calibration | None = None
    max_drop: float = DEFAULT_MAX_DROP
    provider: Provider | None = None

    @property
    def exported(self) -> pb.Precision.ValueType:
        """The format that PyTorch's exporter is asked for: what is converted further starts from full precision."""
        halved = self.precision is Precision.FP16_WEIGHTS
        return pb.PRECISION_FP16_WEIGHTS if halved else pb.PRECISION_FP32

    @property
    def conversions(self) -> Sequence[pb.Precision.ValueType]:
        """The formats that the graph is then converted to: one, or for AUTO all that are worth trying."""
        fp16 = self.precision is Precision.FP16 or (self.provider is not None and self.provider.on_gpu)
        int8 = self.calibration is not None
        return [pb.PRECISION_FP16] * fp16 + [pb.PRECISION_INT8] * int8


@dataclass(frozen=True, slots=True)
class Form:
    """A graph in one number format.

    Attributes:
        precision: the format.
        content: model.onnx.
        quantisation: how it was quantised, for INT8.
        rounding: what the conversion changed; empty where there was none.
    """

    precision: pb.Precision.ValueType
    content: bytes
    quantisation: pb.Quantisation | None = None
    rounding: Sequence[pb.OutputParity] = ()


def convert(
    content: bytes, precision: pb.Precision.ValueType, calibration: Calibration | None, feeds: Feeds
) -> Form:
    """Converts a graph of full precision.

    Args:
        content: the graph.
        precision: PRECISION_FP16 or PRECISION_INT8.
        calibration: for the latter.
        feeds: what the graph takes beside images.

    Raises:
        ExportError: it cannot be converted.
    """
    model = onnx.load_model_from_string(content)
    if precision == pb.PRECISION_FP16:
        return Form(precision, half.to_fp16(model).SerializeToString())
    assert calibration is not None
    quantised = quantisation.to_int8(model, calibration.images, feeds)
    done = pb.Quantisation(
        method=quantisation.METHOD,
        calibration=calibration.folder,
        calibration_images=len(calibration.images),
        float_nodes=quantised.float_nodes,
    )
    return Form(precision, quantised.model.SerializeToString(), done)


def runner(content: bytes, precision: pb.Precision.ValueType, feeds: Feeds) -> Runner:
    """Runs a graph on the CPU so that its answers show what its number format does, see `half.emulated`.

    Args:
        content: model.onnx.
        precision: its format.
        feeds: what it takes beside images.
    """
    opened = parity.session(content)
    if precision == pb.PRECISION_FP16:
        wide = half.emulated(onnx.load_model_from_string(content))
        opened = parity.session(wide.SerializeToString())
    return parity.runner(opened, feeds)


def engines(precision: pb.Precision.ValueType) -> str:
    """Names both sides of a comparison, see `parity.engines`."""
    emulated = ", 16-bit results emulated" if precision == pb.PRECISION_FP16 else ""
    return parity.engines() + emulated


def allow_again(rounding: Iterable[pb.OutputParity]) -> None:
    """Lets a converted graph differ by somewhat more when it is compared again, perhaps on another machine."""
    for entry in rounding:
        entry.tolerance = _SLACK * entry.max_difference + TOLERANCES[entry.output]


def is_converted(manifest: pb.ModelManifest) -> bool:
    """Whether a bundle's graph was converted after it was compared with PyTorch; adopted ones came as they are."""
    return manifest.precision in CONVERTED and bool(manifest.parity.rounding)


def compared_as(manifest: pb.ModelManifest) -> pb.Precision.ValueType:
    """What `runner` is to be told of a bundle's graph: one that was not converted is run as it is."""
    return manifest.precision if is_converted(manifest) else pb.PRECISION_FP32


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


def check_rounding(rounding: Iterable[pb.OutputParity], form: str) -> None:
    """Holds what a number format of 16 bits changed in the answers against what it may change.

    Args:
        rounding: by how much outputs differ.
        form: where they do, for the message: "In FP16".

    Raises:
        ParityError: it changed more, or made answers that are not finite.
    """
    for entry in rounding:
        limit = _FP16_LARGEST.get(entry.output, math.inf)
        if not (math.isfinite(entry.max_difference) and entry.max_difference <= limit):
            raise ParityError(
                f"{form} output `{entry.output}` differs by up to {entry.max_difference:.3g}: "
                "export it with --precision fp32."
            )


def check_fp16(rounding: Iterable[pb.OutputParity], quality: Iterable[pb.QualityMeasurement]) -> None:
    """Holds what 16-bit arithmetic changed against what it may change.

    Args:
        rounding: by how much outputs differ.
        quality: among others, how often answers agree.

    Raises:
        ParityError: it changed more, or made answers that are not finite. An overflow that a later operator hides, as
            Clip does, is held only against what it changed.
    """
    check_rounding(rounding, "In FP16")
    for figure in quality:
        in_fp16 = figure.precision == pb.PRECISION_FP16 and figure.metric.endswith(_AGREEMENT)
        if in_fp16 and not figure.value >= _FP16_LEAST_AGREEMENT:
            raise ParityError(
                f"In FP16 only {100 * figure.value:.1f} % of the answers stay as they were ({figure.metric}): "
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
    """
    measured = list(quality)
    before = {figure.metric: figure.value for figure in measured if figure.engine == "pytorch"}
    for figure in measured:
        if figure.engine == "pytorch" or figure.precision != precision:
            continue
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


def fastest(
    forms: Sequence[Form],
    manifest: pb.ModelManifest,
    feeds: Feeds,
    provider: Provider,
    note: Callable[[str], None] = lambda _text: None,
) -> Form:
    """Measures how fast forms run, notes it in the manifest, and names the fastest.

    Args:
        forms: what to choose from.
        manifest: of all of them.
        feeds: what they take beside images.
        provider: what runs them.
        note: told which form cannot be run, and why; it is left out.

    Raises:
        ExportError: none of them can be run.
    """
    trial = pb.ModelManifest()
    trial.CopyFrom(manifest)
    rates: list[tuple[float, Form]] = []
    for form in forms:
        trial.precision = form.precision
        try:
            measured = speed.measure(form.content, trial, feeds, provider)
        except ExportError as error:
            note(f"{short_name(form.precision)} is not taken: {error}")
            continue
        manifest.speeds.append(measured)
        rates.append((measured.images_per_second, form))
    if not rates:
        raise ExportError(
            f"{provider.name} can run the network in no format: name one with --precision instead of auto, to export "
            "it without a measurement."
        )
    return max(rates, key=lambda one: one[0])[1]


def short_name(precision: pb.Precision.ValueType) -> str:
    """A format as the command line writes it."""
    return pb.Precision.Name(precision).removeprefix("PRECISION_").lower().replace("_", "-")
