"""The recipes, a few steps of each: every training runs, and what comes out keeps its network's contract."""

import math

import pytest
import torch

from retinue_export import fashion_mnist
from retinue_export.recipes import fashion_cnn, fashion_detector, fashion_segmenter, scene_batches

pytestmark = pytest.mark.usefixtures("fashion_mnist_data")


class Reports:
    """Notes how far the training says it is."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, step: int, total: int, loss: float) -> None:
        assert math.isfinite(loss)
        self.steps.append(step)


@pytest.fixture
def reports() -> Reports:
    return Reports()


def test_the_segmenter_goes_on_from_the_detector(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_batches, "SIDE", 48)
    monkeypatch.setattr(fashion_segmenter, "BATCH", 2)
    torch.manual_seed(5)
    detector = fashion_detector.RECIPE.network().eval()
    assert fashion_segmenter.RECIPE.begins_with is fashion_detector.RECIPE
    network = fashion_segmenter.train(reports, detector, steps=4)
    assert reports.steps == [1, 2, 3, 4]
    assert not network.training
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 48, 32)).shape == (1, len(fashion_segmenter.CLASSES), 48, 32)
    # After a few steps it is still near to where it began.
    for part in ("backbone.stem.0.weight", "class_branch.1.0.weight"):
        assert torch.allclose(network.state_dict()[part], detector.state_dict()[part], atol=0.02)


def test_the_detector_learns_from_scenes(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_detector, "BATCH", 2)
    network = fashion_detector.train(reports, steps=3)
    assert reports.steps == [1, 2, 3]
    assert not network.training


def test_the_same_seed_gives_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_detector, "BATCH", 2)
    first, second = (fashion_detector.train(Reports(), seed=3, steps=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_classifier_sees_each_batch_of_each_pass(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fashion_mnist.load("test")
    few = fashion_mnist.FashionMnist(data.images[:200], data.labels[:200])
    monkeypatch.setattr(fashion_mnist, "load", lambda _split: few)
    monkeypatch.setattr(fashion_cnn, "BATCH", 64)
    network = fashion_cnn.train(reports, passes=2)
    assert reports.steps == list(range(1, 7))
    assert not network.training


def test_framed_scenes_have_boxes_inside_the_square() -> None:
    images, scenes = next(scene_batches.batches(fashion_segmenter.SceneSource("train"), 8, 64, seed=1))
    assert images.shape == (8, 64, 64, 3)
    for scene in scenes:
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= 64
