"""From a trained network to a bundle: fold, round, export, compare with PyTorch, convert, measure, write."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import allowances, bundle, folding, graph, parity, quality
from retinue_export import precision as precisions
from retinue_export.errors import ExportError
from retinue_export.image_folders import Calibration
from retinue_export.packaging import Normalisation, Packaging
from retinue_export.parity import Feeds, Outputs, Runner
from retinue_export.precision import Form, Precision, Wanted
from retinue_server.vision.spec import InputSpec, ResizeMode

Measure = Callable[[Runner], dict[str, float]]
"""Maps what runs a network to figures by the name of the metric."""
Stage = Callable[[str], None]
"""Called with what begins now, in a few words."""

_FEW = 8
"""So many images show whether a network tells images apart."""
_RESIZE_MODES = {
    ResizeMode.SHORTER_SIDE_CENTER_CROP: pb.RESIZE_MODE_SHORTER_SIDE_CENTER_CROP,
    ResizeMode.LETTERBOX: pb.RESIZE_MODE_LETTERBOX,
    ResizeMode.STRETCH: pb.RESIZE_MODE_STRETCH,
}
_INTERPOLATIONS = {
    Image.Resampling.BILINEAR: pb.INTERPOLATION_BILINEAR,
    Image.Resampling.BICUBIC: pb.INTERPOLATION_BICUBIC,
    Image.Resampling.NEAREST: pb.INTERPOLATION_NEAREST,
}


@dataclass(frozen=True, slots=True)
class Quality:
    """How to measure a model on labelled images.

    Attributes:
        dataset: names the labelled set.
        images: how many there are in it.
        measure: does it.
    """

    dataset: str
    images: int
    measure: Measure


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained network with all that its bundle must say.

    Attributes:
        manifest: name, task, labels, options, source and description; the rest is filled in here.
        network: in evaluation mode, weights as trained.
        packaging: how it becomes a graph.
        parity_images: gives uint8 [N,H,W,C], real inputs to compare on.
        parity_inputs: what these are, for people.
        quality: how to measure it, or None where no labelled set exists.
    """

    manifest: pb.ModelManifest
    network: nn.Module
    packaging: Packaging
    parity_images: Callable[[], NDArray[np.uint8]]
    parity_inputs: str
    quality: Quality | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A candidate's graph, and what it was made from.

    Attributes:
        original: the network, batch normalisation folded where that is possible.
        shipped: what the graph computes: likewise, weights rounded to 16 bits where that is wanted.
        content: model.onnx.
    """

    original: nn.Module
    shipped: nn.Module
    content: bytes


def export(candidate: Candidate, precision: pb.Precision.ValueType = pb.PRECISION_FP16_WEIGHTS) -> Exported:
    """Makes the graph of a candidate.

    Args:
        candidate: see there.
        precision: PRECISION_FP16_WEIGHTS, or PRECISION_FP32 to leave the weights as trained.

    Raises:
        ExportError: a weight is too large for 16 bits, PyTorch's exporter cannot follow the network, or its graph is
            too large for a file.
    """
    halves = precision == pb.PRECISION_FP16_WEIGHTS
    original = folding.folded(candidate.network)
    shipped = graph.rounded_to_fp16(original) if halves else original
    model = candidate.packaging.graph(shipped)
    if halves:
        graph.store_as_fp16(model)
    if (size := model.ByteSize()) > onnx.checker.MAXIMUM_PROTOBUF:
        raise ExportError(
            f"The graph takes {size / 1e9:.1f} GB, and ONNX files end at 2 GB: --precision fp16-weights takes half."
        )
    onnx.checker.check_model(model, full_check=True)
    return Exported(original, shipped, model.SerializeToString())


def build(
    candidate: Candidate,
    out: Path,
    version: int,
    stage: Stage,
    wanted: Wanted = Wanted(),  # noqa: B008 (immutable)
    note: Stage = lambda _text: None,
) -> Path:
    """Makes the bundle of a candidate.

    Args:
        candidate: see there.
        out: the folder of all models.
        version: of the bundle.
        stage: told what begins.
        wanted: in which number format.
        note: told on what nothing could be compared, or which format was tried in vain, and why.

    Returns:
        The version folder.

    Raises:
        ParityError: the graph does not compute what the network does, or loses too much in the format that is wanted;
            nothing is written.
        ExportError: the graph cannot be made or converted, or the version exists already, or cannot be written.
        BundleError: the server would refuse what was made.
    """
    bundle.require_free(out, candidate.manifest.name, version)
    stage("exporting")
    exported = export(candidate, wanted.exported)
    manifest = pb.ModelManifest()
    manifest.CopyFrom(candidate.manifest)
    manifest.input.CopyFrom(image_input(candidate.packaging.spec, candidate.packaging.normalisation))
    candidate.packaging.describe(manifest)
    manifest.opset = graph.OPSET
    stage("comparing with PyTorch")
    manifest.parity.CopyFrom(_certificate(candidate, exported, note))
    parity.check(manifest.parity.outputs)
    if candidate.quality is not None:
        stage("measuring quality")
        reference = candidate.packaging.reference(candidate.network)
        _measure(manifest, candidate.quality, reference, pb.PRECISION_FP32, "pytorch")
    make = partial(_form, candidate, exported, manifest, wanted)
    if wanted.precision is Precision.AUTO:
        form = _fastest(make, manifest, wanted, candidate.packaging.feeds, stage, note)
    else:
        (precision,) = wanted.conversions or (wanted.exported,)
        stage(f"making {precisions.short_name(precision)}")
        form = make(precision)
    manifest.precision = form.precision
    if form.quantisation is not None:
        manifest.quantisation.CopyFrom(form.quantisation)
    manifest.parity.rounding.extend(form.rounding)
    manifest.parity.engines = precisions.engines(form.precision)
    stage("writing")
    return bundle.write(out, manifest, version, form.content)


def _form(
    candidate: Candidate,
    exported: Exported,
    manifest: pb.ModelManifest,
    wanted: Wanted,
    precision: pb.Precision.ValueType,
) -> Form:
    """Makes the graph of one number format, notes its quality, and holds what it lost against what it may lose.

    Raises:
        ParityError: it lost more.
        ExportError: the graph cannot be converted, or nothing shows what that changed.
    """
    feeds = candidate.packaging.feeds
    converted = precision in precisions.CONVERTED
    form = (
        precisions.convert(exported.content, precision, wanted.calibration, feeds)
        if converted
        else Form(precision, exported.content)
    )
    runner = precisions.runner(form.content, precision, feeds)
    if candidate.quality is not None:
        _measure(manifest, candidate.quality, runner, precision, "onnxruntime")
    if converted:
        reference = candidate.packaging.reference(exported.original)
        images, packaging = candidate.parity_images(), candidate.packaging
        rounding = packaging.compare(reference, runner, images, packaging.batch_sizes)
        allowances.allow_again(rounding)
        form = replace(form, rounding=rounding)
        before = parity.runner(parity.session(exported.content), feeds)
        agreement = (
            _agreement(manifest, before, images, candidate.parity_inputs)
            if precision == pb.PRECISION_FP16
            else _agreement_held_back(manifest, before, wanted.calibration)
        )
        agreed = _measure(manifest, agreement, runner, precision, "onnxruntime")
        if precision == pb.PRECISION_FP16:
            allowances.check_16_bits(form.rounding, agreed, "In FP16")
    allowances.check_drop(manifest.quality, precision, wanted.max_drop)
    return form


def _fastest(
    make: Callable[[pb.Precision.ValueType], Form],
    manifest: pb.ModelManifest,
    wanted: Wanted,
    feeds: Feeds,
    stage: Stage,
    note: Stage,
) -> Form:
    """Makes all formats worth trying, leaves out those that lose too much, and takes the fastest."""
    assert wanted.provider is not None
    forms = [make(wanted.exported)]
    for precision in wanted.conversions:
        name = precisions.short_name(precision)
        stage(f"trying {name}")
        try:
            forms.append(make(precision))
        except ExportError as error:
            note(f"{name} is not taken: {error}")
    stage("measuring speed")
    return precisions.fastest(forms, manifest, feeds, wanted.provider, note)


def _agreement_held_back(
    manifest: pb.ModelManifest, before: Runner, calibration: Calibration | None
) -> Quality:
    assert calibration is not None
    described = f"images of {calibration.folder} held back from calibration"
    return _agreement(manifest, before, calibration.held_back, described)


def _agreement(
    manifest: pb.ModelManifest, before: Runner, images: NDArray[np.uint8], described: str
) -> Quality:
    task, least_score = manifest.task, manifest.detect.default_score_threshold
    return Quality(
        f"{described}, against fp32",
        len(images),
        lambda runner: quality.agreement(task, before, runner, images, least_score),
    )


def image_input(spec: InputSpec, normalisation: Normalisation) -> pb.ImageInput:
    """Says in a manifest what `retinue_server.bundle.manifest.input_spec` reads from it, and how the graph goes on."""
    return pb.ImageInput(
        height=spec.height,
        width=spec.width,
        colour=pb.COLOUR_GREY if spec.grey else pb.COLOUR_RGB,
        resize=pb.ResizeRule(
            mode=_RESIZE_MODES[spec.resize_mode],
            interpolation=_INTERPOLATIONS[spec.resample],
            shorter_side=spec.shorter_side,
            pad_value=spec.pad_value,
        ),
        draft_decoding=spec.draft_decoding,
        normalisation=pb.Normalisation(mean=normalisation.mean, deviation=normalisation.deviation),
    )


def _certificate(candidate: Candidate, exported: Exported, note: Stage) -> pb.ParityCertificate:
    images, packaging = candidate.parity_images(), candidate.packaging
    reference = packaging.reference(exported.shipped)
    described = candidate.manifest.source.architecture
    if _batch_norms(exported.original) < _batch_norms(candidate.network):
        described += ", batch normalisation folded into the convolutions"
        trained = packaging.reference(candidate.network)
        unrounded = packaging.reference(exported.original)
        parity.check(packaging.compare(trained, unrounded, images, packaging.batch_sizes[-1:]))
    halved = exported.shipped is not exported.original
    if halved:
        described += ", weights rounded to 16-bit floats"
    certificate = pb.ParityCertificate(
        reference=described,
        inputs=candidate.parity_inputs,
        images=len(images),
        batch_sizes=packaging.batch_sizes,
        outputs=packaging.compare(
            reference,
            parity.runner(parity.session(exported.content), packaging.feeds),
            images,
            packaging.batch_sizes,
        ),
    )
    doubt = ""
    if not certificate.outputs:
        doubt = "; the reference finds nothing on them, so there was nothing to compare"
    elif _all_alike(reference(images[:_FEW])):
        doubt = "; the reference answers all of them alike, so there was little to compare"
    if doubt:
        certificate.inputs += doubt
        note(f"Compared on {certificate.inputs}.")
    if halved:
        certificate.rounding.extend(_rounding_of_weights(candidate, exported, images))
    return certificate


def _rounding_of_weights(
    candidate: Candidate, exported: Exported, images: NDArray[np.uint8]
) -> list[pb.OutputParity]:
    """What weights of 16 bits change in the answers, in PyTorch.

    Raises:
        ParityError: it is more than they may.
    """
    manifest, packaging = candidate.manifest, candidate.packaging
    before, after = packaging.reference(exported.original), packaging.reference(exported.shipped)
    rounding = packaging.compare(before, after, images, packaging.batch_sizes[-1:])
    for entry in rounding:
        entry.tolerance = 0
    agreement = (
        {}  # its probabilities are limited instead, two of which may be nearly equal
        if manifest.task == pb.TASK_CLASSIFY
        else quality.agreement(manifest.task, before, after, images, manifest.detect.default_score_threshold)
    )
    allowances.check_16_bits(rounding, agreement, "With weights of 16 bits")
    return rounding


def _all_alike(answers: Outputs) -> bool:
    """Whether a classifier gives different images the same probabilities, or a segmenter all pixels one class."""
    probabilities, class_map = answers.get("probabilities"), answers.get("class_map")
    if probabilities is not None:
        return bool(np.ptp(probabilities, axis=0).max() < parity.TOLERANCES["probabilities"])
    return class_map is not None and class_map.min() == class_map.max()


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def _measure(
    manifest: pb.ModelManifest,
    quality: Quality,
    runner: Runner,
    precision: pb.Precision.ValueType,
    engine: str,
) -> dict[str, float]:
    """Measures a runner, and notes the figures in a manifest."""
    figures = quality.measure(runner)
    for metric, value in figures.items():
        manifest.quality.add(
            metric=metric,
            value=value,
            dataset=quality.dataset,
            images=quality.images,
            precision=precision,
            engine=engine,
        )
    return figures
