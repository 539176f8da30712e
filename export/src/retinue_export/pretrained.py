"""Classifiers that a library has by name, with what it says of their weights."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import inputs, label_files, user_module, weight_files
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation, classifier
from retinue_export.weight_files import State
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec


@dataclass(frozen=True, slots=True)
class Preset:
    """A classifier of a library, and what the library says of a set of weights of it.

    Attributes:
        library: the library's distribution, such as "torchvision".
        name: what the library calls the classifier.
        architecture: how a manifest names it.
        build: makes it with random weights, for a number of classes.
        load: gives it weights, as `weight_files.load_into` does.
        download: fetches the weights to a file; raises ExportError where that fails.
        spec: how images are prepared.
        normalisation: how pixels are normalised.
        labels: the classes that the weights were trained on; empty where the library does not name them.
        training: how the weights came to be, for people.
        licence: that of the weights, "unknown" where the library names none.
        recognised: whether the file in question is known to be the library's own.
    """

    library: str
    name: str
    architecture: str
    build: Callable[[int], nn.Module]
    load: Callable[[nn.Module, State], None]
    download: Callable[[], Path]
    spec: InputSpec
    normalisation: Normalisation
    labels: tuple[str, ...]
    training: str
    licence: str
    recognised: bool


Find = Callable[[str, str], Preset]
"""Looks a classifier up by the library's name of it and the SHA-256 of the weights file, "" where there is none yet.

Raises ExportError where the library has no such classifier, or prepares images in a way that no manifest can say.
"""


def candidate(
    find: Find,
    architecture: str,
    name: str,
    weights: Path | None,
    labels: Path | None,
    full_precision: bool = False,
) -> Candidate:
    """Prepares a classifier for export.

    Args:
        find: the library.
        architecture: its name of the classifier.
        name: the bundle's name.
        weights: see `weight_files.read`; the library's own are downloaded where it is None.
        labels: a text file with one label a line; the library's own where it is None.
        full_precision: see `Candidate`.

    Raises:
        ExportError: the library has no such classifier, or the files do not fit it.
    """
    path = weights if weights is not None else find(architecture, "").download()
    state = weight_files.read(path)
    sha256 = manifest_file.file_sha256(path)
    preset = find(architecture, sha256)
    names = label_files.read(labels) if labels is not None else preset.labels
    if not names:
        raise ExportError(
            f"{preset.library} does not name the classes of {preset.name}: give --labels with one line a class."
        )
    network = preset.build(len(names))
    classes = weight_files.other_class_count(network, state)
    if classes is not None:
        told = (
            f"{labels} has {len(names)} labels" if labels else f"{preset.library} names {len(names)} classes"
        )
        raise ExportError(
            f"{told}, but the weights have {classes} classes: give --labels with one line a class."
        )
    preset.load(network, state)
    user_module.check(network, pb.TASK_CLASSIFY, preset.spec)
    is_own = weights is None or preset.recognised
    return Candidate(
        manifest=pb.ModelManifest(
            name=name,
            task=pb.TASK_CLASSIFY,
            labels=names,
            description=(
                f"Tells which of {len(names)} kinds of things a photo shows. "
                f"{preset.library}'s {preset.name}, {preset.training}."
                if is_own
                else f"{preset.library}'s {preset.name} with weights of your own: {len(names)} classes."
            ),
            source=pb.Source(
                framework=", ".join(f"{part} {_version(part)}" for part in ("torch", preset.library)),
                architecture=preset.architecture,
                weights=path.name,
                weights_sha256=sha256,
                licence=preset.licence if is_own else "unknown",
            ),
        ),
        network=network.eval(),
        packaging=classifier(preset.spec, preset.normalisation),
        parity_images=lambda: inputs.photos(preset.spec),
        parity_inputs=inputs.PHOTOS_DESCRIPTION,
        full_precision=full_precision,
    )


def _version(library: str) -> str:
    return version(library).split("+")[0]
