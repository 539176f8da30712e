"""A network of the user's own: a Python file that builds it, and the file with its weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from retinue.v1 import manifest_pb2 as pb

from retinue_export import inputs, label_files, weight_files
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation
from retinue_export.quantities import printable
from retinue_export.user_answer import Answer
from retinue_export.user_code import build, described
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec

_BACKGROUNDS = ("background", "__background__")
"""What pixels are called that belong to no object: here, and by torchvision."""
_MOST_SEGMENT_CLASSES = 256
"""A class map is uint8."""


def candidate(
    target: str,
    name: str,
    answer: Answer,
    spec: InputSpec,
    normalisation: Normalisation,
    labels: Path,
    weights: Path | None,
) -> Candidate:
    """Prepares a network of the user's own for export.

    Args:
        target: see `user_code.build`.
        name: the bundle's name.
        answer: what the module answers.
        spec: how images are prepared.
        normalisation: what the module expects to be done to them.
        labels: a text file with one label a line, by class id.
        weights: see `weight_files.read`; None keeps the weights that the module was built with.

    Raises:
        ExportError: a file cannot be used, or the module is not one of this task.
    """
    network = build(target)
    source = pb.Source(
        framework=f"torch {torch.__version__.split('+')[0]}",
        architecture=described(target),
        weights="as the module builds them",
        licence="unknown",
    )
    if weights is not None:
        weight_files.load_into(network, weight_files.read(weights), target)
        source.weights = printable(weights.name)
        source.weights_sha256 = manifest_file.file_sha256(weights)
    names = label_files.read(labels)
    shape = answer.check(network, spec)
    if shape[1] != len(names):
        raise ExportError(
            f"{labels} has {len(names)} labels, but the module answers {shape[1]} classes: one line a class is needed."
        )
    manifest = pb.ModelManifest(name=name, task=answer.task, labels=names, source=source)
    if answer.task == pb.TASK_SEGMENT:
        describe_class_map(manifest, shape)
    if answer.task == pb.TASK_DETECT:
        manifest.detect.default_score_threshold = answer.score_threshold
    return Candidate(
        manifest=manifest,
        network=network,
        packaging=answer.fitted(shape).packaging(spec, normalisation),
        parity_images=lambda: inputs.photos(spec),
        parity_inputs=inputs.PHOTOS_DESCRIPTION
        + (f", with {answer.regions} regions drawn in each" if answer.regions else ""),
    )


def describe_class_map(manifest: pb.ModelManifest, shape: Sequence[int]) -> None:
    """Writes into a segmenter's manifest what its class map is.

    Args:
        manifest: has its labels; see `background_of` for those for no object.
        shape: of the logits, [N,K,h,w].

    Raises:
        ExportError: there are too many classes.
    """
    names = list(manifest.labels)
    if len(names) > _MOST_SEGMENT_CLASSES:
        raise ExportError(
            f"The module answers {len(names)} classes, and a class map has room for {_MOST_SEGMENT_CLASSES}."
        )
    manifest.segment.map_height, manifest.segment.map_width = shape[2:]
    manifest.segment.background_class_id = background_of(names)


def background_of(labels: Sequence[str]) -> int:
    """The class id of pixels that belong to no object, whose label is "background" or "__background__"; -1 if none."""
    return next((labels.index(name) for name in _BACKGROUNDS if name in labels), -1)
