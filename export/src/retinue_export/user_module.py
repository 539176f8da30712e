"""A network of the user's own: a Python file that builds it, and the file with its weights."""

from pathlib import Path

import torch
from retinue.v1 import manifest_pb2 as pb

from retinue_export import inputs, label_files, weight_files
from retinue_export.assembly import Candidate
from retinue_export.class_maps import describe_class_map
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation
from retinue_export.quantities import printable
from retinue_export.user_answer import Answer
from retinue_export.user_code import build, described
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec


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
    answer.check_values(network, spec)
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
