"""The bundled Fashion-MNIST classifier in 8-bit integers, served beside itself in floating point."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from retinue.v1 import image_pb2
from retinue.v1 import manifest_pb2 as pb
from tests.calls import Connection, connected, raw
from tests.server_process import ROOT, running_server

from retinue_export import assembly, fashion_mnist, inputs, quality, reference
from retinue_export.assembly import Quality
from retinue_export.image_folders import Calibration
from retinue_export.precision import Precision, Wanted
from retinue_export.recipes.fashion_cnn import RECIPE, SPEC
from retinue_server.bundle import manifest as manifest_file

ORIGINAL = ROOT / "models" / "fashion-cnn" / "1"
IMAGES = 256
"""How many are sent to both; calibration sees those that follow."""
LABELLED = 1000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_data: None) -> Path:
    """A models folder with version 1, as it is bundled, and version 2, quantised."""
    out = tmp_path_factory.mktemp("models")
    (out / "fashion-cnn").mkdir()
    shutil.copytree(ORIGINAL, out / "fashion-cnn" / "1")
    network = RECIPE.network().eval()
    reference.load_initialisers(network, onnx.load(ORIGINAL / "model.onnx"))
    following = inputs.fashion_images(IMAGES + 160, SPEC)[IMAGES:]
    calibration = Calibration("fashion-mnist", following[:128], following[128:])
    wanted = Wanted(Precision.INT8, calibration, max_drop=0.5)
    candidate = replace(RECIPE.candidate(network), quality=_quality())
    assembly.build(candidate, out, 2, lambda _stage: None, wanted)
    return out


def _quality() -> Quality:
    labels = fashion_mnist.load("test").labels[:LABELLED]
    images = inputs.fashion_images(LABELLED, SPEC)
    return Quality(
        "Fashion-MNIST",
        LABELLED,
        lambda runner: {"top1_accuracy": quality.top1_accuracy(runner, images, labels)},
    )


@pytest.fixture(scope="module")
def connection(models: Path) -> Iterator[Connection]:
    with running_server(models) as server, connected(server.grpc_address) as connection:
        yield connection


def served(connection: Connection, version: int) -> npt.NDArray[np.int64]:
    """The most probable class of each image."""
    images = inputs.fashion_images(IMAGES, SPEC)[..., 0]
    grey = partial(raw, order=image_pb2.CHANNEL_ORDER_GRAY)
    response = connection.classify(*map(grey, images), model="fashion-cnn", version=version, top_k=1)
    return np.array([outcome.result.classes[0].class_id for outcome in response.outcomes])


def test_in_8_bits_it_answers_as_in_floating_point(connection: Connection) -> None:
    in_float, in_integers = served(connection, 1), served(connection, 2)
    labels = fashion_mnist.load("test").labels[:IMAGES]
    # On processors without VNNI, ONNX Runtime's sums of products of 8 bits saturate at 16, which moves some more.
    assert (in_float == in_integers).mean() >= 0.97
    assert (in_integers == labels).mean() > 0.9


def test_its_manifest_tells_the_quality_of_both(models: Path) -> None:
    manifest = manifest_file.read(models / "fashion-cnn" / "2")
    accuracy = {
        figure.precision: figure.value for figure in manifest.quality if figure.metric == "top1_accuracy"
    }
    assert set(accuracy) == {pb.PRECISION_FP32, pb.PRECISION_INT8}
    assert min(accuracy.values()) > 0.91
    (agreement,) = (figure for figure in manifest.quality if figure.metric == "top1_agreement")
    assert agreement.value > 0.95
    assert agreement.images == 32
