"""Regions to compare networks on that look at given ones."""

import numpy as np

from retinue_export import inputs


def test_regions_are_those_of_their_image_whatever_batch_it_is_in() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    regions = inputs.regions(images, 8)
    assert regions.shape == (3, 8, 4)
    assert regions.dtype == np.float32
    np.testing.assert_array_equal(inputs.regions(images[1:2], 8), regions[1:2])
    assert not np.array_equal(regions[0], regions[1])


def test_regions_lie_in_the_image_and_some_rows_stay_unused() -> None:
    regions = inputs.regions(np.zeros((1, 20, 30, 3), np.uint8), 100)[0]
    used = regions[:75]
    assert not regions[75:].any()
    assert (used >= 0).all()
    assert (used <= (30, 20, 30, 20)).all()
    sides = used[:, 2:] - used[:, :2]
    assert (sides > 0).all()
    assert sides[:, 0].min() < 6
    assert sides[:, 0].max() > 24


def test_one_region_is_used() -> None:
    assert inputs.regions(np.zeros((1, 20, 30, 3), np.uint8), 1).any()
