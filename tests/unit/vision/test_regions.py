"""Regions that come with an image."""

import math

import numpy as np
import pytest
from PIL import Image

from retinue_server.errors import ImageError
from retinue_server.vision.regions import check_count, checked, to_input
from retinue_server.vision.resize import frame_for
from retinue_server.vision.spec import InputSpec, ResizeMode


def frame_of(mode, width, height):
    spec = InputSpec(100, 100, False, mode, Image.Resampling.BILINEAR, shorter_side=100)
    return frame_for(width, height, spec)


@pytest.mark.parametrize(
    ("count", "most", "reason"),
    [
        (1, 0, "REGIONS_NOT_TAKEN"),
        (0, 2, "REGION_COUNT_OUT_OF_RANGE"),
        (3, 2, "REGION_COUNT_OUT_OF_RANGE"),
    ],
)
def test_another_number_of_regions_than_a_model_looks_at_is_refused(count, most, reason):
    with pytest.raises(ImageError) as refused:
        check_count(count, most)
    assert refused.value.reason == reason


@pytest.mark.parametrize(("count", "most"), [(0, 0), (1, 2), (2, 2)])
def test_as_many_as_a_model_looks_at_are_taken(count, most):
    check_count(count, most)


@pytest.mark.parametrize("corners", [(5, 0, 5, 1), (0, 3, 1, 2)])
def test_what_is_no_rectangle_is_refused(corners):
    with pytest.raises(ImageError) as refused:
        checked([(0, 0, 1, 1), corners])
    assert refused.value.reason == "REGION_INVALID"


@pytest.mark.parametrize("corners", [(0, 0, math.nan, 1), (0, -math.inf, 1, 1), (0, 0, 1, math.inf)])
def test_what_is_not_finite_is_said_to_be_so(corners):
    with pytest.raises(ImageError, match="region 1 has a coordinate that is no finite number") as refused:
        checked([(0, 0, 1, 1), corners])
    assert refused.value.reason == "REGION_INVALID"


def test_a_message_names_the_region():
    with pytest.raises(ImageError, match="region 1 is no rectangle"):
        checked([(0, 0, 1, 1), (5, 0, 5, 1), (0, 0, 1, 0)])


def test_regions_follow_the_image_into_a_letterbox():
    regions = checked([(0, 0, 200, 50), (100, 25, 150, 50)])
    np.testing.assert_allclose(
        to_input(regions, frame_of(ResizeMode.LETTERBOX, 200, 50)),
        [[0, 37.5, 100, 62.5], [50, 50, 75, 62.5]],
        atol=0.5,
    )


def test_what_a_crop_cuts_off_of_a_region_is_lost_and_all_of_one_leaves_nothing():
    regions = checked([(0, 0, 100, 50), (0, 0, 40, 50), (-50, 10, 80, 900)])
    inside = to_input(regions, frame_of(ResizeMode.SHORTER_SIDE_CENTER_CROP, 200, 50))
    np.testing.assert_allclose(inside, [[0, 0, 50, 100], [0, 0, 0, 0], [0, 20, 10, 100]], atol=0.5)
    assert inside.dtype == np.float32


def test_what_lies_beside_the_image_is_lost_in_a_letterbox_too():
    regions = checked([(0, -100, 100, 150), (0, 52, 100, 90)])
    inside = to_input(regions, frame_of(ResizeMode.LETTERBOX, 200, 50))
    np.testing.assert_allclose(inside, [[0, 37.5, 50, 62.5], [0, 0, 0, 0]], atol=0.5)
