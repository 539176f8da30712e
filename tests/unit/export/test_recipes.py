"""The recipes, a few steps of each: every training runs, and what comes out keeps its network's contract."""

import math

import numpy as np
import pytest
import torch
from torch import nn

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


def quick_classifier() -> nn.Module:
    """Believes something of each of 60,000 items within a moment."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, len(fashion_mnist.CLASSES))).eval()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def test_the_segmenter_goes_on_from_the_detector_and_is_taught_by_the_classifier(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_batches, "SIDE", 48)
    monkeypatch.setattr(fashion_segmenter, "BATCH", 2)
    torch.manual_seed(5)
    detector = fashion_detector.RECIPE.network().eval()
    assert fashion_segmenter.RECIPE.learns_from == (fashion_detector.RECIPE, fashion_cnn.RECIPE)
    network = fashion_segmenter.train(reports, detector, quick_classifier(), steps=4)
    assert reports.steps == [1, 2, 3, 4]
    assert not network.training
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 48, 32)).shape == (1, len(fashion_segmenter.CLASSES), 96, 64)
    # After a few steps it is still near to where it began.
    for part in ("backbone.stem.0.weight", "class_branch.1.0.weight"):
        assert torch.allclose(network.state_dict()[part], detector.state_dict()[part], atol=0.02)


def test_a_pixel_of_an_item_is_to_be_what_the_classifier_believes_of_it() -> None:
    classifier = quick_classifier()
    targets = fashion_segmenter._targets(classifier)
    assert targets[0].tolist() == [1.0, *[0.0] * 10]
    assert torch.equal(targets[1:, 1:], fashion_cnn.beliefs(classifier))
    assert not targets[1:, 0].any()


def test_a_scene_and_all_that_is_said_of_it_are_mirrored_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_segmenter, "BATCH", 2)
    batches = fashion_segmenter._batches(seed=0)
    first, mirrored = next(batches), next(batches)
    for one, other in zip(first, mirrored, strict=True):
        assert not torch.equal(one, other)
        assert torch.equal(one.flip(2), other)


def test_the_detector_learns_from_scenes(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_detector, "BATCH", 2)
    network = fashion_detector.train(reports, quick_classifier(), steps=3)
    assert reports.steps == [1, 2, 3]
    assert not network.training


def test_the_detector_is_taught_what_is_believed_of_each_item_of_a_scene() -> None:
    source = fashion_segmenter.SceneSource("train")
    scenes = [scene_batches.framed_scene(source, 64, np.random.default_rng(seed)) for seed in range(4)]
    believed = torch.rand(len(source.labels), 10, generator=torch.Generator().manual_seed(0))
    boxes, beliefs = fashion_detector.padded_targets(scenes, believed)
    for row, scene in enumerate(scenes):
        count = len(scene.items)
        np.testing.assert_array_equal(boxes[row, :count], scene.boxes)
        np.testing.assert_array_equal(beliefs[row, :count], believed[scene.items])
        assert not boxes[row, count:].any()
        assert not beliefs[row, count:].any()


def test_the_same_seed_gives_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_detector, "BATCH", 2)
    taught_by = quick_classifier()
    first, second = (
        fashion_detector.train(Reports(), taught_by, seed=3, steps=2).state_dict() for _ in range(2)
    )
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
