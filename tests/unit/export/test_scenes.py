"""Generated scenes: the same for the same seed, and labelled as they are painted."""

import numpy as np
import pytest

from retinue_export import backgrounds, scenes
from retinue_export.recipes.scene_batches import PAD_VALUE, framed_scene
from retinue_export.scenes import Scene, SceneSource

INPUT_SIDE = 96


@pytest.fixture(scope="module")
def source(fashion_mnist_data: None) -> SceneSource:
    return SceneSource("test")


def some(source: SceneSource, count: int, seed: int = 3) -> list[Scene]:
    endless = source.scenes(120, 160, seed)
    return [next(endless) for _ in range(count)]


def test_the_same_seed_gives_the_same_scenes(source: SceneSource) -> None:
    for first, second in zip(some(source, 5), some(source, 5), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.class_map, second.class_map)


def test_another_seed_gives_other_scenes(source: SceneSource) -> None:
    assert not np.array_equal(some(source, 1, seed=3)[0].image, some(source, 1, seed=4)[0].image)


def test_each_box_fits_tightly_around_pixels_of_its_class(source: SceneSource) -> None:
    for scene in some(source, 30):
        assert len(scene.boxes) == len(scene.classes) > 0
        for (x1, y1, x2, y2), class_id in zip(scene.boxes.astype(int), scene.classes, strict=True):
            assert 0 <= x1 < x2 <= 160
            assert 0 <= y1 < y2 <= 120
            own = scene.class_map[y1:y2, x1:x2] == class_id + 1
            assert own[0].any()
            assert own[-1].any()
            assert own[:, 0].any()
            assert own[:, -1].any()


def test_every_marked_pixel_is_in_a_box_of_its_class(source: SceneSource) -> None:
    for scene in some(source, 30):
        unexplained = scene.class_map.copy()
        for (x1, y1, x2, y2), class_id in zip(scene.boxes.astype(int), scene.classes, strict=True):
            window = unexplained[y1:y2, x1:x2]
            window[window == class_id + 1] = 0
        assert not unexplained.any()


def test_each_pixel_names_its_item(source: SceneSource) -> None:
    labels = np.array([0, *(source.labels + 1)])
    for scene in some(source, 10):
        np.testing.assert_array_equal(labels[scene.item_map], scene.class_map)
        np.testing.assert_array_equal(np.unique(scene.item_map), np.unique([0, *(scene.items + 1)]))


def test_items_overlap_sometimes_but_never_hide_one_another(source: SceneSource) -> None:
    overlapping = 0
    for scene in some(source, 60):
        x1, y1, x2, y2 = scene.boxes.T
        width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
        height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
        shared = np.triu((width > 0) & (height > 0), k=1)
        overlapping += int(shared.any())
        areas = [(scene.class_map == class_id + 1).sum() for class_id in scene.classes]
        assert min(areas) > 20
    assert overlapping > 10


@pytest.mark.usefixtures("fashion_mnist_data")
def test_items_asked_for_are_items_placed_while_there_is_room() -> None:
    crowded = SceneSource("test", fewest_items=10, most_items=10)
    counts = [len(scene.classes) for scene in some(crowded, 10)]
    assert max(counts) <= 10
    assert np.mean(counts) > 6


@pytest.mark.usefixtures("fashion_mnist_data")
def test_an_item_of_which_no_pixel_shows_is_not_placed() -> None:
    source = SceneSource("test")
    source.cutouts[..., 1] = 0
    (scene,) = some(source, 1)
    assert scene.boxes.shape == (0, 4)
    assert not scene.class_map.any()


def test_recoloured_backgrounds_are_the_same_for_the_same_seed_and_other_than_plain_ones() -> None:
    photos = backgrounds.load("test")
    plain, first, second = (
        backgrounds.compose(photos, 100, 120, np.random.default_rng(3), recolour=recolour)
        for recolour in (False, True, True)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(plain, first)


def test_a_silhouette_fills_black_enclosed_by_the_item_and_not_black_around_it() -> None:
    ring = np.zeros((1, 28, 28), np.uint8)
    ring[0, 8:20, 8:20] = 200
    ring[0, 12:16, 12:16] = 0
    found = scenes.silhouettes(ring)
    assert found[0, 13, 13] == 255
    assert found.sum() == 12 * 12 * 255
    assert not scenes.silhouettes(np.zeros((2, 28, 28), np.uint8)).any()


def test_training_and_evaluation_share_no_photo() -> None:
    train, test = backgrounds.PHOTOS["train"], backgrounds.PHOTOS["test"]
    assert train
    assert test
    assert not set(train) & set(test)


def test_a_framed_scene_is_centred_on_grey_and_its_labels_move_with_it(source: SceneSource) -> None:
    random = np.random.default_rng(5)
    narrow = 0
    for _ in range(20):
        scene = framed_scene(source, INPUT_SIDE, random)
        assert scene.image.shape == (INPUT_SIDE, INPUT_SIDE, 3)
        assert scene.class_map.shape == (INPUT_SIDE, INPUT_SIDE)
        for (x1, y1, x2, y2), class_id in zip(scene.boxes.astype(int), scene.classes, strict=True):
            assert (scene.class_map[y1:y2, x1:x2] == class_id + 1).any()
        if (scene.image[0] == PAD_VALUE).all() or (scene.image[:, 0] == PAD_VALUE).all():
            narrow += 1
    assert 0 < narrow < 20
