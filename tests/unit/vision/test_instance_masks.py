"""Small masks of boxes become masks of the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from retinue_server.errors import ImageError
from retinue_server.vision import masks
from retinue_server.vision.instance_masks import encode

# pycocotools' own decoder, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def decoded(counts, width, height):
    return coco_mask.decode({"size": [height, width], "counts": counts}).astype(bool)


def shown(mask, box, width=40, height=30):
    (counts,) = encode(np.array([mask], np.float32), np.array([box], np.float64), width, height)
    return decoded(counts, width, height)


def test_a_mask_is_laid_over_its_box():
    found = shown(np.kron([[1, 0], [1, 0]], np.ones((14, 14))), (10, 5, 20, 15))
    assert found[5:15, 10:15].all()
    assert not found[:, 15:].any()
    assert not found[:5].any()
    assert not found[:, :10].any()
    assert not found[15:].any()


def test_a_full_mask_fills_its_box():
    found = shown(np.ones((28, 28)), (10, 5, 20, 15))
    assert found.sum() == 100
    assert found[5:15, 10:20].all()


def test_what_lies_outside_of_the_image_is_cut_off_and_not_squeezed_in():
    found = shown(np.kron([[1, 0], [0, 1]], np.ones((14, 14))), (-10, -10, 10, 10))
    # The upper left quarter, which the mask shows, is outside; the lower right one is inside.
    assert found[:10, :10].all()
    assert found.sum() == 100


def test_the_masks_are_torchvisions():
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    random = np.random.default_rng(0)
    smooth = random.random((6, 4, 4)).repeat(7, axis=1).repeat(7, axis=2).astype(np.float32)
    boxes = np.array(
        [
            (3, 4, 90, 70),
            (0, 0, 120, 80),
            (50.3, 20.7, 119.2, 33.1),
            (-9, -5, 60, 60),
            (80, 60, 140, 99),
            (9, 9, 37, 37),
        ]
    )
    expected = (
        paste_masks_in_image(torch.from_numpy(smooth)[:, None], torch.from_numpy(boxes), (80, 120))[:, 0]
        > 0.5
    )
    for counts, wanted in zip(encode(smooth, boxes, 120, 80), expected.numpy(), strict=True):
        found = decoded(counts, 120, 80)
        # torchvision first rounds boxes to whole pixels.
        assert (found & wanted).sum() / (found | wanted).sum() > 0.9


def test_boxes_of_too_many_pixels_together_are_refused_before_anything_is_enlarged():
    boxes = np.tile([0.0, 0.0, 5000.0, 5000.0], (5, 1))
    with pytest.raises(ImageError) as refused:
        encode(np.ones((5, 28, 28), np.float32), boxes, 5000, 5000)
    assert refused.value.reason == "MASKS_TOO_LARGE"


def test_masks_of_too_many_bytes_are_refused():
    speckled = np.random.default_rng(0).random((3, 28, 28)).astype(np.float32)
    with pytest.raises(ImageError, match="more than 100 bytes") as refused:
        encode(speckled, np.tile([0.0, 0.0, 200.0, 200.0], (3, 1)), 200, 200, max_bytes=100)
    assert refused.value.reason == "MASKS_TOO_LARGE"


@given(
    part=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    place=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    spare=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    bits=st.integers(0, 2**36 - 1),
)
def test_runs_of_a_part_are_those_of_the_whole(part, place, spare, bits):
    (w, h), (x, y) = part, place
    width, height = x + w + spare[0], y + h + spare[1]
    mask = np.array([bits >> bit & 1 for bit in range(w * h)], bool).reshape(h, w)
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y : y + h, x : x + w] = mask
    down_the_columns = np.pad(mask, ((0, 1), (0, 0))).T
    counts = masks.encode_placed(np.ascontiguousarray(down_the_columns), x, y, width, height)
    assert counts == coco_mask.encode(whole)["counts"]
