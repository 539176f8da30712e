"""From a trained network to a bundle: fold, round, export, compare with PyTorch, measure, write."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import bundle, graph, parity
from retinue_export.packaging import Normalisation, Packaging
from retinue_export.parity import Runner
from retinue_server.vision.spec import InputSpec, ResizeMode

Measure = Callable[[Runner], dict[str, float]]
"""Maps what runs a network to figures by the name of the metric."""
Stage = Callable[[str], None]
"""Called with what begins now, in a few words."""

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
        full_precision: whether to leave the weights as trained instead of rounding them to 16 bits.
    """

    manifest: pb.ModelManifest
    network: nn.Module
    packaging: Packaging
    parity_images: Callable[[], NDArray[np.uint8]]
    parity_inputs: str
    quality: Quality | None = None
    full_precision: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Exported:
    """A candidate's graph, and what it was made from.

    Attributes:
        original: the network, batch normalisation folded where that is possible.
        shipped: what the graph computes: likewise, weights rounded to 16 bits unless full precision is wanted.
        content: model.onnx.
    """

    original: nn.Module
    shipped: nn.Module
    content: bytes


def export(candidate: Candidate) -> Exported:
    """Makes the graph of a candidate.

    Raises:
        ExportError: PyTorch's exporter cannot follow the network.
    """
    original = graph.folded(candidate.network)
    shipped = original if candidate.full_precision else graph.rounded_to_fp16(original)
    model = candidate.packaging.graph(shipped)
    if not candidate.full_precision:
        graph.store_as_fp16(model)
    onnx.checker.check_model(model, full_check=True)
    return Exported(original, shipped, model.SerializeToString())


def build(candidate: Candidate, out: Path, version: int, stage: Stage) -> Path:
    """Makes the bundle of a candidate.

    Returns:
        The version folder.

    Raises:
        ParityError: the graph does not compute what the network does; nothing is written.
        ExportError: the version exists already, or cannot be written.
    """
    bundle.require_free(out, candidate.manifest.name, version)
    stage("exporting")
    exported = export(candidate)
    manifest = pb.ModelManifest()
    manifest.CopyFrom(candidate.manifest)
    manifest.input.CopyFrom(image_input(candidate.packaging.spec, candidate.packaging.normalisation))
    candidate.packaging.describe(manifest)
    manifest.opset = graph.OPSET
    manifest.precision = pb.PRECISION_FP32 if candidate.full_precision else pb.PRECISION_FP16_WEIGHTS
    stage("comparing with PyTorch")
    manifest.parity.CopyFrom(_certificate(candidate, exported))
    parity.check(manifest.parity.outputs)
    if candidate.quality is not None:
        stage("measuring quality")
        reference = candidate.packaging.reference(candidate.network)
        _measure(manifest, candidate.quality, reference, pb.PRECISION_FP32, "pytorch")
        _measure(
            manifest,
            candidate.quality,
            parity.runner(parity.session(exported.content), candidate.packaging.feeds),
            manifest.precision,
            "onnxruntime",
        )
    stage("writing")
    return bundle.write(out, manifest, version, exported.content)


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


def _certificate(candidate: Candidate, exported: Exported) -> pb.ParityCertificate:
    images, packaging = candidate.parity_images(), candidate.packaging
    reference = packaging.reference(exported.shipped)
    described = candidate.manifest.source.architecture
    if _batch_norms(exported.original) < _batch_norms(candidate.network):
        described += ", batch normalisation folded into the convolutions"
        trained = packaging.reference(candidate.network)
        unrounded = packaging.reference(exported.original)
        parity.check(packaging.compare(trained, unrounded, images, packaging.batch_sizes[-1:]))
    if not candidate.full_precision:
        described += ", weights rounded to 16-bit floats"
    certificate = pb.ParityCertificate(
        reference=described,
        engines=parity.engines(),
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
    if not certificate.outputs:
        certificate.inputs += "; the reference finds nothing on them, so there was nothing to compare"
    if not candidate.full_precision:
        before = packaging.reference(exported.original)
        for entry in packaging.compare(before, reference, images, packaging.batch_sizes[-1:]):
            entry.tolerance = 0
            certificate.rounding.append(entry)
    return certificate


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def _measure(
    manifest: pb.ModelManifest,
    quality: Quality,
    runner: Runner,
    precision: pb.Precision.ValueType,
    engine: str,
) -> None:
    for metric, value in quality.measure(runner).items():
        manifest.quality.add(
            metric=metric,
            value=value,
            dataset=quality.dataset,
            images=quality.images,
            precision=precision,
            engine=engine,
        )
