"""The committed bundles against PyTorch: they compute what their modules define, and are as good as they say."""

from pathlib import Path

import onnxruntime
import pytest
from retinue.v1 import manifest_pb2 as pb
from torch import nn
from torchvision.models import mobilenet_v2

from retinue_export import parity, reference
from retinue_export.parity import Runner
from retinue_export.recipes.catalog import RECIPES
from retinue_server.bundle import manifest as manifest_file

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
NAMES = ("fashion-cnn", "fashion-detector", "fashion-segmenter", "mobilenet-v2")
LARGEST_BYTES = 16_000_000


def bundle_folder(name: str) -> Path:
    return max((MODELS / name).iterdir(), key=lambda folder: int(folder.name))


def graph_runner(folder: Path, feeds: parity.Feeds) -> Runner:
    return parity.runner(parity.session((folder / manifest_file.MODEL_FILE).read_bytes()), feeds)


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    return bundle_folder(request.param)


def test_the_graph_computes_what_the_pytorch_module_computes(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    manifest = manifest_file.read(folder)
    if manifest.name in RECIPES:
        request.getfixturevalue("fashion_mnist_data")
    manifest_file.check_hash(folder, manifest)
    expected = reference.load(folder, manifest)
    assert list(manifest.parity.batch_sizes) == [1, 2, 7, 32]
    assert manifest.parity.images == len(expected.images) >= 32
    measured = parity.compare(expected.run, graph_runner(folder, expected.feeds), expected.images)
    parity.check(measured)
    assert {entry.output for entry in measured} == {entry.output for entry in manifest.parity.outputs}


def test_the_certificate_tells_of_folding_where_there_was_something_to_fold(folder: Path) -> None:
    manifest = manifest_file.read(folder)
    recipe = RECIPES.get(manifest.name)
    network = recipe.network() if recipe else mobilenet_v2(weights=None)
    folds = any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert ("batch normalisation folded" in manifest.parity.reference) == folds


def test_the_certificate_claims_no_more_than_was_allowed(folder: Path) -> None:
    certificate = manifest_file.read(folder).parity
    parity.check(certificate.outputs)
    assert certificate.outputs
    assert all(
        entry.tolerance == pytest.approx(parity.TOLERANCES[entry.output]) for entry in certificate.outputs
    )
    assert certificate.rounding


def test_the_batch_is_dynamic_and_the_opset_is_the_manifests(folder: Path) -> None:
    manifest = manifest_file.read(folder)
    session = onnxruntime.InferenceSession(
        folder / manifest_file.MODEL_FILE, providers=["CPUExecutionProvider"]
    )
    images, *_ = session.get_inputs()
    spec = manifest_file.input_spec(manifest)
    assert images.name == "images"
    assert images.shape == ["batch", spec.height, spec.width, spec.channels]
    assert all(output.shape[0] == "batch" for output in session.get_outputs())


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("fashion-cnn", "top1_accuracy", 0.92),
        ("fashion-detector", "map_50", 0.80),
        ("fashion-segmenter", "mean_iou", 0.75),
    ],
)
def test_the_measured_quality_is_what_was_asked_for(name: str, metric: str, least: float) -> None:
    figures = [
        figure for figure in manifest_file.read(bundle_folder(name)).quality if figure.metric == metric
    ]
    engines = {(figure.engine, figure.precision) for figure in figures}
    assert engines == {("pytorch", pb.PRECISION_FP32), ("onnxruntime", pb.PRECISION_FP16_WEIGHTS)}
    assert all(figure.images >= 500 and figure.value >= least for figure in figures)
    first, second = (figure.value for figure in figures)
    assert abs(first - second) < 0.005


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist_data")
@pytest.mark.parametrize("name", RECIPES)
def test_the_graph_is_as_good_as_its_manifest_says(name: str) -> None:
    folder, recipe = bundle_folder(name), RECIPES[name]
    said = [figure for figure in manifest_file.read(folder).quality if figure.engine == "onnxruntime"]
    quality = recipe.quality()
    assert {(figure.dataset, figure.images) for figure in said} == {(quality.dataset, quality.images)}
    measured = quality.measure(graph_runner(folder, recipe.packaging.feeds))
    assert measured == pytest.approx({figure.metric: figure.value for figure in said}, abs=1e-3)


def test_all_bundles_together_are_small_enough_to_commit() -> None:
    total = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert total <= LARGEST_BYTES


def test_mobilenet_holds_torchvisions_own_weights(mobilenet_weights: Path) -> None:
    folder = bundle_folder("mobilenet-v2")
    expected = reference.load(folder, manifest_file.read(folder), mobilenet_weights)
    parity.check(parity.compare(expected.run, graph_runner(folder, expected.feeds), expected.images))
