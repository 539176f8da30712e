"""From a foreign ONNX file to a bundle: understand, wrap, compare with the file itself, write."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from retinue.v1 import manifest_pb2 as pb

from retinue_export import assembly, bundle, inputs, parity
from retinue_export.adoption import reading, wrapping
from retinue_export.adoption.detection_heads import Candidates, Queries, ReplacedSuppression, Rows
from retinue_export.adoption.facts import Facts, Told
from retinue_export.adoption.heads import ClassMap, Head, Probabilities
from retinue_export.adoption.hugging_face import HuggingFace
from retinue_export.adoption.layout import Layout
from retinue_export.adoption.original import Original
from retinue_export.adoption.plain import Plain
from retinue_export.adoption.reading import Foreign
from retinue_export.adoption.ultralytics import Ultralytics
from retinue_export.adoption.wrapping import Pixels
from retinue_export.assembly import Stage
from retinue_export.errors import ExportError
from retinue_export.inspection import model_file
from retinue_export.packaging import Normalisation
from retinue_export.parity import Runner
from retinue_export.quantities import printable
from retinue_export.reference import Reference
from retinue_server.bundle import manifest as manifest_file
from retinue_server.bundle.manifest import LABEL_PATTERN, LABEL_RULE
from retinue_server.runtime.session import explain
from retinue_server.vision.spec import InputSpec

_RECORD = "retinue.adopted"
"""Under which key a bundle's graph says how it was made of the foreign one, so that it can be compared again."""
_HEADS: Mapping[str, type[Head]] = {
    kind.__name__: kind for kind in (Probabilities, ClassMap, Candidates, Rows, ReplacedSuppression, Queries)
}
_LARGE_PIXELS = 400 * 400
"""Of inputs with more, what is computed between the layers of 32 of them may not fit in memory."""
_HALF_STEP = 2**-10
"""How far two neighbouring 16-bit floats are apart, at most, as a part of either."""
_OPTIONS_OF_HEADS = ("softmax", "native_map", "max_detections", "iou_threshold", "score_threshold")
"""Fields of `Told` that only some heads are made by."""
_ROUNDING = 1e-4
_SHOWN = 80
"""So many characters of a label that is none."""
_INTEGER = frozenset(
    {
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
"""Operators of graphs that compute with 8-bit integers."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A foreign file with all that is needed to wrap it.

    Attributes:
        foreign: the file.
        layout: how it is to be understood.
        facts: what was found out.
        pixels: how images are prepared.
        original: the file, running.
        head: what is put behind it.
    """

    foreign: Foreign
    layout: Layout
    facts: Facts
    pixels: Pixels
    original: Original
    head: Head


def layout_of(foreign: Foreign, told: Told) -> Layout:
    """Finds out who made a file.

    Raises:
        ExportError: it is known, and something was told of another.
    """
    if Ultralytics.matches(foreign):
        if told.preprocessor is not None or told.config is not None:
            raise ExportError(
                f"{foreign.path} is of Ultralytics, and --preprocessor and --config are of Hugging Face."
            )
        return Ultralytics(foreign, told)
    if HuggingFace.matches(foreign, told):
        return HuggingFace(foreign, told)
    return Plain(foreign, told)


def learn(foreign: Foreign, layout: Layout, facts: Facts) -> None:
    """Fills in what can be found out without running the file.

    Raises:
        ExportError: the file cannot be adopted, or does not fit what was told.
    """
    if foreign.height is not None and foreign.width is not None:
        size = f"{foreign.height}x{foreign.width}"
        told = facts.text("size")
        square = str(foreign.height) if foreign.height == foreign.width else size
        if told not in (None, size, square):
            raise ExportError(f"{foreign.path} takes images of {size}, and --size says {told}: leave it out.")
        facts.learn("the graph", size=size)
    if facts.flag("grey") and foreign.channels == 3:
        raise ExportError(f"{foreign.path} takes 3 channels, and --grey says one: leave it out.")
    facts.learn("the graph", grey=True if foreign.channels == 1 else None)
    if layout.told.bgr and facts.flag("grey"):
        raise ExportError(f"--bgr has no meaning for {foreign.path}, which takes one channel: leave it out.")
    output, names = layout.told.output, [value.name for value in foreign.outputs]
    if output is not None and output not in names:
        has = ", ".join(f"`{name}`" for name in names)
        raise ExportError(f"{foreign.path} has no output `{output}`; it has {has}.")
    layout.learn(facts)


def understand(foreign: Foreign, layout: Layout, facts: Facts) -> Understood:
    """Runs the file on a black image, and finds out what its answers mean.

    Raises:
        ExportError: facts are missing, the file cannot be run or does not fit them, or something was told that has no
            meaning for it.
    """
    pixels = facts.pixels()
    for number, label in enumerate(facts.labels()):
        if not LABEL_PATTERN.fullmatch(label):
            raise ExportError(
                f"{foreign.path} calls class {number} {label[:_SHOWN]!r}: a label must have {LABEL_RULE}. "
                "Give --labels."
            )
    original = Original(foreign, pixels)
    spec = pixels.spec
    black = np.zeros((1, spec.height, spec.width, spec.channels), np.uint8)
    head = layout.head(facts, pixels, original.answers(black))
    _refuse_unused(foreign, layout.told, head)
    return Understood(foreign, layout, facts, pixels, original, head)


def _refuse_unused(foreign: Foreign, told: Told, head: Head) -> None:
    """Refuses options by which nothing would change."""
    silent = Told()
    for name in _OPTIONS_OF_HEADS:
        value = getattr(told, name)
        if value != getattr(silent, name) and name not in head.options:
            option = "no-softmax" if name == "softmax" and not value else name.replace("_", "-")
            raise ExportError(
                f"--{option} has no meaning for {foreign.path}, which is taken for {head.meaning}: leave it out."
            )


def build(understood: Understood, name: str, out: Path, version: int, stage: Stage) -> Path:
    """Makes the bundle.

    Returns:
        The version folder.

    Raises:
        ParityError: the wrapped graph does not compute what the file does; nothing is written.
        ExportError: the file fixes its batch size, or answers with what are no numbers or no probabilities; or the
            version exists already, or cannot be written.
    """
    bundle.require_free(out, name, version)
    stage("wrapping")
    foreign, pixels, head = understood.foreign, understood.pixels, understood.head
    model = wrapping.wrap(foreign, pixels, head)
    entry = model.metadata_props.add()
    entry.key, entry.value = _RECORD, _written_down(pixels, head)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    manifest = _manifest(understood, name, model)
    stage("comparing with the original")
    images = inputs.photos(pixels.spec)
    manifest.parity.CopyFrom(_certificate(understood, content, images, bundle.other_side(manifest)))
    stage("writing")
    return bundle.write(out, manifest, version, content)


def reference(folder: Path, manifest: pb.ModelManifest, path: Path) -> Reference:
    """The foreign file of a bundle as what the bundle is compared with.

    Args:
        folder: the bundle's.
        manifest: its manifest, validated.
        path: the file.

    Raises:
        ExportError: it is another file, or the bundle was not adopted.
    """
    model = model_file.read(folder / manifest_file.MODEL_FILE).model
    record = {entry.key: entry.value for entry in model.metadata_props}.get(_RECORD)
    if record is None:
        raise ExportError("The bundle was not made by adopt: verify it without --adopted.")
    foreign = reading.read(path)
    if foreign.sha256 != manifest.source.weights_sha256:
        raise ExportError(
            f"{path} has SHA-256 {foreign.sha256}, but the bundle was made of a file with "
            f"{manifest.source.weights_sha256}."
        )
    pixels, head = _read_back(record, manifest)
    return Reference(
        Original(foreign, pixels).runner(head),
        head.feeds,
        inputs.photos(pixels.spec),
        f"{path.name}, the file that the bundle was made of (same SHA-256)",
        _batch_sizes(pixels.spec),
        _tolerances(foreign, pixels.spec),
    )


def _written_down(pixels: Pixels, head: Head) -> str:
    return json.dumps(
        {
            "head": type(head).__name__,
            "fields": asdict(head),  # type: ignore[call-overload]
            "reversed_channels": pixels.reversed_channels,
        }
    )


def _read_back(record: str, manifest: pb.ModelManifest) -> tuple[Pixels, Head]:
    """What `_written_down` wrote, and the manifest says."""
    normalisation = manifest.input.normalisation
    try:
        told = json.loads(record)
        head = _HEADS[told["head"]](**told["fields"])
        reversed_channels = bool(told["reversed_channels"])
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"The bundle's graph does not say how it was made (`{_RECORD}`): adopt the file again."
        ) from error
    levels = Normalisation(tuple(normalisation.mean), tuple(normalisation.deviation))
    return Pixels(manifest_file.input_spec(manifest), levels, reversed_channels), head


def _manifest(understood: Understood, name: str, model: ModelProto) -> pb.ModelManifest:
    foreign = understood.foreign
    file_name = printable(foreign.path.name)
    producer = f"{foreign.model.producer_name} {foreign.model.producer_version}".strip() or "unknown"
    manifest = pb.ModelManifest(
        name=name,
        labels=understood.facts.labels(),
        input=assembly.image_input(understood.pixels.spec, understood.pixels.normalisation),
        opset=reading.opset(model),
        precision=_precision(foreign.model),
        description=foreign.metadata.get("description", "").strip()
        or f"{file_name}, adopted: {understood.head.meaning}.",
        source=pb.Source(
            framework=producer,
            architecture=f"{bundle.ADOPTED}{file_name}",
            weights=file_name,
            weights_sha256=foreign.sha256,
            licence=understood.layout.licence,
        ),
    )
    understood.head.describe(manifest)
    return manifest


def _precision(model: ModelProto) -> pb.Precision.ValueType:
    """In which format the graph computes, or most of the weights are."""
    if any(node.op_type in _INTEGER for node in model.graph.node):
        return pb.PRECISION_INT8
    sizes = Counter[int]()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return pb.PRECISION_FP16 if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else pb.PRECISION_FP32


def _certificate(
    understood: Understood, content: bytes, images: NDArray[np.uint8], other_side: str
) -> pb.ParityCertificate:
    spec = understood.pixels.spec
    sizes = _batch_sizes(spec)
    tolerances = _tolerances(understood.foreign, spec)
    expected = understood.original.runner(understood.head)
    seen = _check_sense(understood, expected(images))
    actual = _bundle_runner(content, understood.head)
    try:
        measured = parity.compare(expected, actual, images, sizes, tolerances)
        parity.check(measured, other_side)
    except ExportError as error:
        parity.check(parity.compare(expected, actual, images, (1,), tolerances), other_side)
        raise ExportError(
            f"{understood.foreign.path} gives other answers, or none, for several images at once than for one: "
            f"{_batch_advice(understood)}. ({error})"
        ) from error
    return pb.ParityCertificate(
        reference=f"{printable(understood.foreign.path.name)} itself, on images normalised in NumPy",
        engines=f"{parity.engines()} on both sides",
        inputs=f"{inputs.PHOTOS_DESCRIPTION}; {seen}",
        images=len(images),
        batch_sizes=sizes,
        outputs=measured,
    )


def _batch_advice(understood: Understood) -> str:
    """What to do about a file whose answers to an image depend on the others in its batch."""
    if any(node.op_type.startswith("DynamicQuantize") for node in understood.foreign.model.graph.node):
        return "it measures the range of its activations in the whole batch, so quantise it statically"
    return understood.layout.batch_advice


def _bundle_runner(content: bytes, head: Head) -> Runner:
    """What the bundle's graph answers.

    Raises, when it runs:
        ExportError: ONNX Runtime cannot run it, or it has another number of rows than there are images.
    """
    run = parity.runner(parity.session(content), head.feeds)

    def answers(images: NDArray[np.uint8]) -> parity.Outputs:
        count = len(images)
        try:
            outputs = run(images)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise ExportError(
                f"The wrapped graph cannot be run on {count} images: {explain(error)}."
            ) from error
        for name, values in outputs.items():
            if len(values) != count:
                raise ExportError(f"The wrapped graph gives `{name}` {len(values)} rows for {count} images.")
        return outputs

    return answers


def _batch_sizes(spec: InputSpec) -> Sequence[int]:
    return parity.FEW_BATCH_SIZES if spec.height * spec.width > _LARGE_PIXELS else parity.BATCH_SIZES


def _tolerances(foreign: Foreign, spec: InputSpec) -> Mapping[str, float]:
    """How far the outputs of a bundle may be from its file's: a step more where that steps in 16 bits."""
    if foreign.image.kind != TensorProto.FLOAT16:
        return parity.TOLERANCES
    scales = {"probabilities": 1, "scores": 1, "boxes": max(spec.height, spec.width)}
    steps = {name: _HALF_STEP * scale for name, scale in scales.items()}
    return {name: allowed + steps.get(name, 0) for name, allowed in parity.TOLERANCES.items()}


def _check_sense(understood: Understood, answers: parity.Outputs) -> str:
    """Holds what the file answers to photos against what a server will ask of it.

    Returns:
        What is in the answers, in a few words.

    Raises:
        ExportError: probabilities are none.
    """
    if "class_map" in answers:
        return f"{len(np.unique(answers['class_map']))} different classes in them"
    scores = answers["probabilities" if "probabilities" in answers else "scores"].astype(np.float32)
    if scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING:
        classifies = "probabilities" in answers
        advice = "give --softmax if they are logits" if classifies else "export it with its sigmoid"
        raise ExportError(
            f"{understood.foreign.path} gives scores from {scores.min():.3g} to {scores.max():.3g}, which are no "
            f"probabilities: {advice}."
        )
    if "probabilities" in answers:
        return f"{len(np.unique(scores.argmax(axis=1)))} different classes answered"
    return f"{int((scores > 0).sum())} detections"
