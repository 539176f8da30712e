"""The number formats that a network can be exported in, how it is brought to them, and which is the fastest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx
from retinue.v1 import manifest_pb2 as pb

from retinue_export import bundle, half, parity, quantisation, speed
from retinue_export.errors import ExportError
from retinue_export.image_folders import Calibration
from retinue_export.parity import Feeds, Runner
from retinue_server.runtime.providers import Provider

CONVERTED = (pb.PRECISION_FP16, pb.PRECISION_INT8)
"""What PyTorch's exporter cannot make."""
DEFAULT_MAX_DROP = 1.0


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


def is_converted(manifest: pb.ModelManifest) -> bool:
    """Whether a bundle's graph was converted after it was compared with PyTorch; adopted ones came as they are."""
    adopted = manifest.source.architecture.startswith(bundle.ADOPTED)
    return manifest.precision in CONVERTED and not adopted


def compared_as(manifest: pb.ModelManifest) -> pb.Precision.ValueType:
    """What `runner` is to be told of a bundle's graph: one that was not converted is run as it is."""
    return manifest.precision if is_converted(manifest) else pb.PRECISION_FP32


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
