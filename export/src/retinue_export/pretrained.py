"""Networks that a library has by name, with what it says of their weights."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from torch import nn

from retinue_export import inputs, label_files, weight_files
from retinue_export.assembly import Candidate
from retinue_export.class_maps import describe_class_map
from retinue_export.errors import ExportError
from retinue_export.input_options import Interpolation
from retinue_export.packaging import Normalisation, Packaging, classifier
from retinue_export.user_answer import DEFAULT_SCORE_THRESHOLD, Answer
from retinue_export.weight_files import State
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec

_ANSWERS = {
    pb.TASK_CLASSIFY: "Tells which of {} kinds of things a photo shows.",
    pb.TASK_SEGMENT: "Tells which of {} kinds of things each pixel of a photo shows.",
    pb.TASK_DETECT: "Finds things of {} kinds in a photo.",
}


@dataclass(frozen=True, slots=True)
class Preset:
    """A network of a library, and what the library says of a set of weights of it.

    Attributes:
        library: the library's distribution, such as "torchvision".
        name: what the library calls the network.
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
        task: what the network answers.
        package: how what `build` has made becomes a graph, for images prepared in some way.
        place: where weights belong: the library's own module inside of what `build` has made, and its part of a file.
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
    task: pb.Task.ValueType = pb.TASK_CLASSIFY
    package: Callable[[nn.Module, InputSpec], Packaging] | None = None
    place: Callable[[nn.Module, State], tuple[nn.Module, State]] = lambda network, state: (network, state)

    def packaging(self, network: nn.Module, spec: InputSpec) -> Packaging:
        """How what `build` has made becomes a graph, for images that are prepared as `spec` says."""
        return classifier(spec, self.normalisation) if self.package is None else self.package(network, spec)

    def give_weights(self, network: nn.Module, state: State) -> None:
        """Gives what `build` has made the weights of a file."""
        self.load(*self.place(network, state))


Find = Callable[[str, str], Preset]
"""Looks a network up by the library's name of it and the SHA-256 of the weights file, "" where there is none yet.

Raises ExportError where the library has no such network, or prepares images in a way that no manifest can say.
"""


def candidate(
    find: Find,
    architecture: str,
    name: str,
    weights: Path | None,
    labels: Path | None,
) -> Candidate:
    """Prepares a network for export.

    Args:
        find: the library.
        architecture: its name of the network.
        name: the bundle's name.
        weights: see `weight_files.read`; the library's own are downloaded where it is None.
        labels: a text file with one label a line; the library's own where it is None.

    Raises:
        ExportError: the library has no such network, or the files do not fit it.
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
    classes = weight_files.other_class_count(*preset.place(network, state), len(names))
    if classes is not None:
        told = (
            f"{labels} has {len(names)} labels" if labels else f"{preset.library} names {len(names)} classes"
        )
        raise ExportError(
            f"{told}, but the weights have {classes} classes: give --labels with one line a class."
        )
    preset.give_weights(network, state)
    is_own = weights is None or preset.recognised
    manifest = pb.ModelManifest(
        name=name,
        task=preset.task,
        labels=names,
        description=(
            f"{_ANSWERS[preset.task].format(len(names))} {preset.library}'s {preset.name}, {preset.training}."
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
    )
    _check(network, preset, manifest)
    photos, described = parity_photos(preset.task)
    return Candidate(
        manifest=manifest,
        network=network.eval(),
        packaging=preset.packaging(network, preset.spec),
        parity_images=lambda: photos(preset.spec),
        parity_inputs=described,
    )


def resampling(name: str) -> Image.Resampling | None:
    """The filter that libraries call so; None where no manifest can say it."""
    return Interpolation(name).resample if name in list(Interpolation) else None


def parity_photos(task: pb.Task.ValueType) -> tuple[Callable[[InputSpec], NDArray[np.uint8]], str]:
    """What a network of a task is compared with PyTorch on, and how people are told of it."""
    if task == pb.TASK_CLASSIFY:
        return inputs.photos, inputs.PHOTOS_DESCRIPTION
    return inputs.few_photos, inputs.FEW_PHOTOS_DESCRIPTION


def _check(network: nn.Module, preset: Preset, manifest: pb.ModelManifest) -> None:
    """Looks at what the network answers, and writes what its task wants to know of that into the manifest."""
    if preset.task == pb.TASK_DETECT:
        manifest.detect.default_score_threshold = DEFAULT_SCORE_THRESHOLD
        return
    answer = Answer(preset.task)
    shape = answer.check(network, preset.spec)
    answer.check_values(network, preset.spec)
    if preset.task == pb.TASK_SEGMENT:
        describe_class_map(manifest, shape)


def _version(library: str) -> str:
    return version(library).split("+")[0]
