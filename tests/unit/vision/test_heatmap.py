"""Heatmaps lie in the original image where the network saw what they show."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from retinue_server.errors import EngineError
from retinue_server.vision.heatmap import MAX_SIDE, to_original
from retinue_server.vision.resize import frame_for, prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

CROP, LETTERBOX, STRETCH = ResizeMode.SHORTER_SIDE_CENTER_CROP, ResizeMode.LETTERBOX, ResizeMode.STRETCH


def spec_of(mode: ResizeMode, height: int = 32, width: int = 32) -> InputSpec:
    side = 40 if mode is CROP else 0
    return InputSpec(height, width, True, mode, Image.Resampling.BILINEAR, shorter_side=side)


def seen(image: Image.Image, spec: InputSpec, cell: int = 4) -> tuple[np.ndarray, object]:
    """What a network that looks for brightness says of each cell of its input, and the frame."""
    pixels = np.empty((spec.height, spec.width, 1), np.uint8)
    frame = prepare(image, spec, pixels)
    cells = pixels.reshape(spec.height // cell, cell, spec.width // cell, cell).mean(axis=(1, 3))
    return cells.astype(np.float32) - 20, frame


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (240, 240), (1500, 900)])
@pytest.mark.parametrize(("across", "down"), [(0.4, 0.35), (0.6, 0.6), (0.5, 0.35)])
def test_a_bright_square_lights_up_where_it_is(
    mode: ResizeMode, width: int, height: int, across: float, down: float
) -> None:
    levels = np.zeros((height, width), np.uint8)
    half, x, y = min(width, height) // 10, round(width * across), round(height * down)
    levels[y - half : y + half, x - half : x + half] = 255
    heatmap = to_original(*seen(Image.fromarray(levels), spec_of(mode)))
    shrunk = heatmap.shape[1] / width
    assert heatmap.shape == (round(height * shrunk), round(width * shrunk))
    assert max(heatmap.shape) <= MAX_SIDE
    assert heatmap.max() == 255
    rows, columns = np.indices(heatmap.shape) + 0.5
    weights = heatmap / heatmap.sum()
    # Cells of the network are up to this many pixels of the image wide.
    slack = max(width, height) / 8
    assert abs((columns * weights).sum() / shrunk - x) < slack / 2
    assert abs((rows * weights).sum() / shrunk - y) < slack / 2
    assert heatmap[np.hypot(rows / shrunk - y, columns / shrunk - x) > 2 * half + slack].max() == 0


def test_what_a_crop_cut_off_is_dark() -> None:
    # 80 x 40 when resized, of which the middle 32 x 32 are shown: 320 x 320 of the original's 800 x 400.
    heatmap = to_original(np.ones((8, 8), np.float32), frame_for(800, 400, spec_of(CROP)))
    assert heatmap.shape == (256, 512)
    assert (heatmap[26:230, 154:358] == 255).all()
    assert np.count_nonzero(heatmap) <= 206 * 206


def test_the_bars_of_a_letterbox_count_for_nothing() -> None:
    evidence = np.full((8, 8), 100, np.float32)
    frame = frame_for(64, 32, spec_of(LETTERBOX))
    evidence[2:6] = np.arange(1, 9)
    heatmap = to_original(evidence, frame)
    assert heatmap.shape == (32, 64)
    # Away from the bars: 1 to 8 from left to right, the most of which is white.
    assert heatmap[:, [4, 28, 60]].tolist() == [[34, 129, 255]] * 32


def test_evidence_against_the_class_is_dark() -> None:
    frame = frame_for(32, 32, spec_of(STRETCH))
    assert not to_original(np.full((4, 4), -3, np.float32), frame).any()
    evidence = np.full((4, 4), -8, np.float32)
    evidence[:, 2:] = 2
    heatmap = to_original(evidence, frame)
    assert not heatmap[:, :14].any()
    assert (heatmap[:, 20:] == 255).all()


def test_levels_are_proportional_to_the_evidence_whatever_its_scale() -> None:
    frame = frame_for(60, 50, spec_of(STRETCH))
    evidence = np.random.default_rng(0).uniform(0, 1, (8, 8)).astype(np.float32)
    np.testing.assert_array_equal(to_original(evidence, frame), to_original(evidence * 512, frame))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evidence_that_is_no_number_is_refused(bad: float) -> None:
    evidence = np.zeros((4, 4), np.float32)
    evidence[1, 2] = bad
    with pytest.raises(EngineError):
        to_original(evidence, frame_for(10, 10, spec_of(STRETCH)))


@given(
    st.sampled_from(list(ResizeMode)),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
@example(CROP, (5000, 3), (7, 7), (40, 1))
def test_any_image_and_any_map_fit(
    mode: ResizeMode, image: tuple[int, int], cells: tuple[int, int], size: tuple[int, int]
) -> None:
    width, height = image
    heatmap = to_original(np.ones(cells, np.float32), frame_for(width, height, spec_of(mode, *size)))
    assert heatmap.dtype == np.uint8
    assert max(heatmap.shape) == min(MAX_SIDE, max(image))
    assert heatmap.max() == 255
    if mode is not CROP:
        assert heatmap.min() == 255
