"""Images of any size become inputs: as torchvision would make them, and with a map that leads back."""

import numpy as np
import pytest
import skimage.data
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from retinue_server.vision.decode import open_encoded
from retinue_server.vision.resize import frame_for, prepare
from retinue_server.vision.spec import InputSpec, ResizeMode

BILINEAR, BICUBIC, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST
CROP, LETTERBOX, STRETCH = ResizeMode.SHORTER_SIDE_CENTER_CROP, ResizeMode.LETTERBOX, ResizeMode.STRETCH

SIZES = [
    (500, 375),
    (375, 500),
    (256, 256),
    (224, 224),
    (301, 257),
    (10, 7),
    (7, 10),
    (1, 1),
    (3, 200),
    (640, 97),
    (300, 1000),
    (60, 130),
]
EXTREMES = [(5000, 3), (3, 5000), (4999, 2), (1, 300)]


def noise(width, height, channels=3):
    generator = np.random.default_rng(width * 10_000 + height)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))


def rendered(image, spec):
    out = np.full((spec.height, spec.width, spec.channels), 77, np.uint8)
    return out, prepare(image.copy(), spec, out)


def distance_from_torchvision(image, resample, shorter_side, crop):
    """Grey levels between our input and that of torchvision's presets: int [crop, crop, 3]."""
    reference = transforms.Compose(
        [
            transforms.Resize(shorter_side, transforms.InterpolationMode[resample.name]),
            transforms.CenterCrop(crop),
        ]
    )
    height, width = (crop, crop) if isinstance(crop, int) else crop
    out, _ = rendered(image, InputSpec(height, width, False, CROP, resample, shorter_side=shorter_side))
    return np.abs(out.astype(int) - np.asarray(reference(image)))


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("shorter_side", [256, 232, 224])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("upright", [True, False])
def test_photos_are_resized_and_cropped_as_torchvision_does_to_one_level(
    name, upright, shorter_side, resample
):
    photo = Image.fromarray(getattr(skimage.data, name)())
    image = photo if upright else photo.transpose(Image.Transpose.ROTATE_90)
    distance = distance_from_torchvision(image, resample, shorter_side, 224)
    assert distance.max() <= 1
    assert (distance > 0).mean() < 0.005


PRESETS = [(256, 224), (232, 224), (224, 224), (300, (224, 280)), (300, (280, 100))]


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize(
    ("size", "shorter_side", "crop"),
    [(size, *preset) for size in SIZES for preset in PRESETS] + [(size, 256, 224) for size in EXTREMES],
)
def test_white_noise_of_any_shape_is_torchvisions_but_for_rounding(size, resample, shorter_side, crop):
    distance = distance_from_torchvision(noise(*size), resample, shorter_side, crop)
    assert distance.max() <= 2
    assert (distance > 1).mean() < 5e-4


def test_a_shape_beyond_reason_is_cropped_without_resizing_all_of_it():
    """A line of 60,000 pixels would be four billion once the shorter side had 256."""
    out, _ = rendered(noise(60_000, 1), InputSpec(224, 224, False, CROP, BILINEAR, shorter_side=256))
    assert (out == out[:1]).all()


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (10, 7)])
def test_nearest_neighbour_takes_levels_from_the_image(size):
    image = noise(*size)
    out, _ = rendered(image, InputSpec(224, 224, False, CROP, NEAREST, shorter_side=256))
    colours = {tuple(colour) for colour in np.asarray(image).reshape(-1, 3)}
    assert {tuple(colour) for colour in out.reshape(-1, 3)} <= colours


@pytest.mark.parametrize("size", SIZES + EXTREMES)
def test_stretching_is_pillows_resize(size):
    image = noise(*size)
    out, _ = rendered(image, InputSpec(30, 50, False, STRETCH, BILINEAR))
    np.testing.assert_array_equal(out, np.asarray(image.resize((50, 30), BILINEAR)))


@pytest.mark.parametrize("size", SIZES + EXTREMES)
def test_letterboxing_centres_the_whole_image_on_the_pad_value(size):
    image = noise(*size)
    out, frame = rendered(image, InputSpec(48, 64, False, LETTERBOX, BILINEAR, pad_value=114))
    left, top, right, bottom = frame.valid
    inside = out[top:bottom, left:right]
    np.testing.assert_array_equal(inside, np.asarray(image.resize((right - left, bottom - top), BILINEAR)))
    outside = np.ones((48, 64), bool)
    outside[top:bottom, left:right] = False
    assert (out[outside] == 114).all()
    assert abs(left - (64 - right)) <= 1
    assert abs(top - (48 - bottom)) <= 1
    assert (left, right) == (0, 64) or (top, bottom) == (0, 48)


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_an_image_of_the_right_size_passes_unchanged(mode):
    image = noise(32, 32)
    out, frame = rendered(image, InputSpec(32, 32, False, mode, BILINEAR, shorter_side=32))
    np.testing.assert_array_equal(out, np.asarray(image))
    assert (frame.scale_x, frame.scale_y, frame.offset_x, frame.offset_y) == (1, 1, 0, 0)


def test_a_grey_image_fills_every_channel_of_a_colour_input():
    image = noise(40, 30, 1)
    out, _ = rendered(image, InputSpec(20, 20, False, LETTERBOX, BILINEAR))
    grey, _ = rendered(image, InputSpec(20, 20, True, LETTERBOX, BILINEAR))
    np.testing.assert_array_equal(out, np.repeat(grey, 3, axis=2))


def test_a_row_of_a_slab_is_written_and_its_neighbours_are_not():
    slab = np.full((3, 16, 24, 3), 9, np.uint8)
    spec = InputSpec(16, 24, False, STRETCH, BILINEAR)
    prepare(noise(50, 40), spec, slab[1])
    assert (slab[[0, 2]] == 9).all()
    np.testing.assert_array_equal(slab[1], rendered(noise(50, 40), spec)[0])


@pytest.mark.parametrize("shape", [(16, 24, 1), (24, 16, 3), (16, 24)])
def test_an_output_of_another_shape_is_a_programming_error(shape):
    with pytest.raises(ValueError, match="out is"):
        prepare(noise(5, 5), InputSpec(16, 24, False, STRETCH, BILINEAR), np.empty(shape, np.uint8))


@pytest.mark.parametrize(
    "options", [{"height": 0}, {"width": 0}, {"pad_value": 256}, {"pad_value": -1}, {"shorter_side": 223}]
)
def test_an_impossible_spec_is_a_programming_error(options):
    good = {"height": 224, "width": 200, "grey": False, "resize_mode": CROP, "resample": BILINEAR}
    InputSpec(**good, shorter_side=224)
    with pytest.raises(ValueError, match=r"\d"):
        InputSpec(**{**good, "shorter_side": 256, **options})


def test_preparing_an_image_releases_its_pixels(encoded):
    image = open_encoded(encoded(noise(50, 40), "PNG"), max_pixels=10_000)
    prepare(image, InputSpec(16, 24, False, STRETCH, BILINEAR), np.empty((16, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="closed"):
        image.load()


class TestDraftDecoding:
    """A JPEG decoded small: nearly the same input, and the same frame."""

    SIZE = (1001, 755)

    @pytest.fixture
    def scene(self):
        return noise(25, 19).resize(self.SIZE, BICUBIC)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("mode", list(ResizeMode))
    @pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
    def test_it_changes_levels_slightly_and_geometry_not_at_all(
        self, scene, encoded, orientation, mode, resample, monkeypatch
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(scene, "JPEG", quality=95, exif=exif)
        results = []
        for draft in (False, True):
            spec = InputSpec(60, 80, False, mode, resample, shorter_side=90, draft_decoding=draft)
            out = np.empty((60, 80, 3), np.uint8)
            image = open_encoded(data, max_pixels=1_000_000)
            frame = prepare(image, spec, out)
            assert (image.width < self.SIZE[0]) is draft
            results.append((out.astype(int), frame))
        (full, full_frame), (draft, draft_frame) = results
        assert draft_frame == full_frame
        difference = np.abs(draft - full)
        assert difference.mean() < 1.5
        # A picture shifted by a pixel of the input would differ by far more than this at its steepest places.
        assert np.quantile(difference, 0.999) < 12

    def test_a_grey_model_reads_the_luma_alone(self, scene, encoded):
        spec = InputSpec(60, 80, True, STRETCH, BILINEAR, draft_decoding=True)
        out = np.empty((60, 80, 1), np.uint8)
        prepare(open_encoded(encoded(scene, "JPEG", quality=95), max_pixels=1_000_000), spec, out)
        expected = np.asarray(scene.convert("L").resize((80, 60), BILINEAR)).astype(int)
        assert np.abs(out[..., 0] - expected).mean() < 1.5

    def test_no_fewer_pixels_are_decoded_than_the_input_needs(self, scene, encoded):
        spec = InputSpec(400, 400, False, CROP, BILINEAR, shorter_side=400, draft_decoding=True)
        image = open_encoded(encoded(scene, "JPEG"), max_pixels=1_000_000)
        prepare(image, spec, np.empty((400, 400, 3), np.uint8))
        assert image.size == self.SIZE

    def test_other_formats_are_decoded_in_full(self, scene, encoded):
        spec = InputSpec(60, 80, False, STRETCH, BILINEAR, draft_decoding=True)
        out = np.empty((60, 80, 3), np.uint8)
        prepare(open_encoded(encoded(scene, "PNG"), max_pixels=1_000_000), spec, out)
        np.testing.assert_array_equal(out, np.asarray(scene.resize((80, 60), BILINEAR)))


sides = st.integers(1, 6000)
input_sides = st.integers(1, 700)


@given(
    st.sampled_from(list(ResizeMode)), sides, sides, input_sides, input_sides, st.integers(0, 300), st.data()
)
def test_a_point_goes_to_the_input_and_back(mode, width, height, input_width, input_height, more, data):
    spec = InputSpec(
        input_height, input_width, False, mode, BILINEAR, shorter_side=max(input_width, input_height) + more
    )
    frame = frame_for(width, height, spec)
    left, top, right, bottom = frame.valid
    assert 0 <= left < right <= input_width
    assert 0 <= top < bottom <= input_height

    x_input = data.draw(st.floats(left, right))
    y_input = data.draw(st.floats(top, bottom))
    x = (x_input - frame.offset_x) / frame.scale_x
    y = (y_input - frame.offset_y) / frame.scale_y
    # Every place of the valid part shows a place of the image ...
    assert -1e-6 <= x <= width + 1e-6
    assert -1e-6 <= y <= height + 1e-6
    # ... and leads back to itself.
    assert x * frame.scale_x + frame.offset_x == pytest.approx(x_input, abs=1e-6)
    assert y * frame.scale_y + frame.offset_y == pytest.approx(y_input, abs=1e-6)


@given(sides, sides, input_sides, input_sides)
def test_letterboxing_and_stretching_show_the_whole_image(width, height, input_width, input_height):
    for mode in (LETTERBOX, STRETCH):
        frame = frame_for(width, height, InputSpec(input_height, input_width, False, mode, BILINEAR))
        left, top, right, bottom = frame.valid
        assert frame.offset_x == left
        assert frame.offset_y == top
        assert width * frame.scale_x + frame.offset_x == pytest.approx(right)
        assert height * frame.scale_y + frame.offset_y == pytest.approx(bottom)


@given(st.integers(20, 600), st.integers(20, 600), st.sampled_from(list(ResizeMode)), st.data())
def test_a_spot_appears_where_the_frame_says(width, height, mode, data):
    """The map is that of the pixels: a white square is found in the input at the place the frame computes."""
    spec = InputSpec(96, 128, True, mode, BILINEAR, shorter_side=130)
    frame = frame_for(width, height, spec)
    left, top, right, bottom = frame.valid
    side = max(2, round(4 / min(frame.scale_x, frame.scale_y)))
    assume(side < min(width, height) // 2)
    x = data.draw(st.integers(0, width - side))
    y = data.draw(st.integers(0, height - side))
    x0, x1 = (edge * frame.scale_x + frame.offset_x for edge in (x, x + side))
    y0, y1 = (edge * frame.scale_y + frame.offset_y for edge in (y, y + side))
    assume(x0 >= left and x1 <= right and y0 >= top and y1 <= bottom)
    image = Image.new("L", (width, height))
    image.paste(255, (x, y, x + side, y + side))
    out, _ = rendered(image, spec)
    weights = out[..., 0].astype(float)
    rows, columns = np.mgrid[0:96, 0:128] + 0.5
    assert (weights * columns).sum() / weights.sum() == pytest.approx((x0 + x1) / 2, abs=0.6)
    assert (weights * rows).sum() / weights.sum() == pytest.approx((y0 + y1) / 2, abs=0.6)
