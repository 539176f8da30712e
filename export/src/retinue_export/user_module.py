"""A network of the user's own: a Python file that builds it, and the file with its weights."""

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from retinue.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from retinue_export import inputs, label_files, weight_files
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.packaging import Normalisation, Packaging, classifier, segmenter
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import InputSpec

_PACKAGINGS = {pb.TASK_CLASSIFY: classifier, pb.TASK_SEGMENT: segmenter}
_BACKGROUNDS = ("background", "__background__")
_MOST_SEGMENT_CLASSES = 256
"""A class map is uint8."""
_MODULE_NAME = "retinue_export_user_module"


def candidate(
    target: str,
    name: str,
    task: pb.Task.ValueType,
    spec: InputSpec,
    normalisation: Normalisation,
    labels: Path,
    weights: Path | None,
) -> Candidate:
    """Prepares a network of the user's own for export.

    Args:
        target: see `build`.
        name: the bundle's name.
        task: TASK_CLASSIFY, for a module that returns logits [N,K], or TASK_SEGMENT, for one that returns [N,K,h,w].
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
        architecture=_described(target),
        weights="as the module builds them",
        licence="unknown",
    )
    if weights is not None:
        weight_files.load_into(network, weight_files.read(weights), target)
        source.weights = weights.name
        source.weights_sha256 = manifest_file.file_sha256(weights)
    names = label_files.read(labels)
    shape = check(network, task, spec)
    if shape[1] != len(names):
        raise ExportError(
            f"{labels} has {len(names)} labels, but the module answers {shape[1]} classes: one line a class is needed."
        )
    manifest = pb.ModelManifest(name=name, task=task, labels=names, source=source)
    if task == pb.TASK_SEGMENT:
        describe_class_map(manifest, shape)
    return Candidate(
        manifest=manifest,
        network=network,
        packaging=packaging(task, spec, normalisation),
        parity_images=lambda: inputs.photos(spec),
        parity_inputs=inputs.PHOTOS_DESCRIPTION,
    )


def describe_class_map(manifest: pb.ModelManifest, shape: Sequence[int]) -> None:
    """Writes into a segmenter's manifest what its class map is.

    Args:
        manifest: has its labels; those for no object are called "background" or "__background__".
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
    background = next((name for name in _BACKGROUNDS if name in names), None)
    manifest.segment.background_class_id = -1 if background is None else names.index(background)


def packaging(task: pb.Task.ValueType, spec: InputSpec, normalisation: Normalisation) -> Packaging:
    """How a module of a task becomes a graph.

    Raises:
        ExportError: the task is not one that `candidate` takes.
    """
    if task not in _PACKAGINGS:
        raise ExportError("A module of yours can be a classifier or a segmenter, and the bundle is neither.")
    return _PACKAGINGS[task](spec, normalisation)


def build(target: str) -> nn.Module:
    """Runs the user's file and builds the network.

    Args:
        target: `FILE.py:NAME`, NAME being a function or class that makes the module when called without arguments.

    Raises:
        ExportError: there is no such file or name, the code raises, or what it makes is no module.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not name:
        raise ExportError(f"{target!r} does not name a function in a Python file: write FILE.py:FUNCTION.")
    if not path.is_file():
        raise ExportError(f"There is no Python file {path}.")
    try:
        maker = getattr(_run(path), name, None)
        made = maker() if callable(maker) else None
    except Exception as error:  # the user's code, which may raise anything
        raise ExportError(f"{target} cannot be built: {_in_one_line(error, path)}") from error
    if not callable(maker):
        raise ExportError(f"{path} has no function `{name}`.")
    if not isinstance(made, nn.Module):
        raise ExportError(f"{target} makes a {type(made).__name__}, not a torch.nn.Module.")
    return made


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module  # where dataclasses look for the module of a class
    sys.path.insert(0, str(path.resolve().parent))  # as if Python had been started with the file
    spec.loader.exec_module(module)
    return module


def _described(target: str) -> str:
    file, _, name = target.rpartition(":")
    return f"{Path(file).name}:{name}"


@torch.no_grad()
def check(network: nn.Module, task: pb.Task.ValueType, spec: InputSpec) -> Sequence[int]:
    """Runs a module on one image and on two.

    Returns:
        The shape of its answer to one.

    Raises:
        ExportError: it cannot take them, or answers something else than its task asks for.
    """
    network.eval()
    wanted = "[N, classes]" if task == pb.TASK_CLASSIFY else "[N, classes, height, width]"
    shape = []
    for count in (2, 1):
        images = torch.rand(count, spec.channels, spec.height, spec.width)
        try:
            answer = network(images)
        except Exception as error:  # likewise
            advice = (
                "give --size and --grey as in its training" if count == 2 else "it must take any batch size"
            )
            raise ExportError(
                f"The module cannot take float32 {list(images.shape)}, {advice}: {_in_one_line(error)}"
            ) from error
        if not isinstance(answer, Tensor):
            raise ExportError(
                f"The module returns a {type(answer).__name__}, not logits {wanted}: wrap it in one that does."
            )
        shape = list(answer.shape)
        if len(shape) != wanted.count(",") + 1 or shape[0] != count or not answer.is_floating_point():
            raise ExportError(
                f"The module returns {answer.dtype} {shape} for {list(images.shape)}, not float logits {wanted}."
            )
    return shape


def _in_one_line(error: Exception, path: Path | None = None) -> str:
    """What was raised, and in which line of the file."""
    file = str(path.resolve()) if path is not None else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" (line {lines[-1]})" if lines else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message.rstrip('.')}{where}."
