"""Tiny bundles that come, change and go while a server runs, each of which answers for itself alone."""

import shutil
import tempfile
from pathlib import Path

import onnx
from onnx import helper

from tests import colour_bundles, odd_bundles


def put(models: Path, name: str, version: int, *, inverted: bool = False) -> Path:
    """Puts a version of a colour classifier there by rename, in place of the one that is there.

    The answer to a red image is "red-VERSION" or, of one that is inverted, another colour.

    Args:
        models: The folder of all models.
        name: The model's.
        version: Its version.
        inverted: Whether it takes the darkest channel for the brightest.
    """
    with tempfile.TemporaryDirectory(prefix=".coming-", dir=models.parent) as aside:
        bundle = colour_bundles.classifier(Path(aside), name, version)
        if inverted:
            odd_bundles.edit_graph(bundle, _invert)
        labels = [f"{label}-{version}" for label in colour_bundles.LABELS]
        colour_bundles.rewrite_manifest(bundle, labels=labels)
        place = models / name / str(version)
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            place.rename(Path(aside) / "gone")
        return bundle.rename(place)


def take_away(models: Path, name: str, version: int) -> None:
    """Takes a version away, at once."""
    with tempfile.TemporaryDirectory(prefix=".going-", dir=models.parent) as aside:
        (models / name / str(version)).rename(Path(aside) / "gone")


def take_all_away(models: Path, name: str) -> None:
    """Takes a model away with all of its versions, one file after the other."""
    shutil.rmtree(models / name)


def _invert(model: onnx.ModelProto) -> None:
    softmax = model.graph.node.pop()
    model.graph.node.append(helper.make_node("Neg", ["means"], ["inverted"]))
    model.graph.node.append(softmax)
    model.graph.node[-1].input[0] = "inverted"
