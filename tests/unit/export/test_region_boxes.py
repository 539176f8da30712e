"""What networks that look at given regions answer with."""

import math

import torch

from retinue_export.zoo import region_boxes

REGIONS = torch.tensor([[[10.0, 20, 50, 40], [0, 0, 0, 0]], [[5.0, 5, 15, 25], [0, 0, 8, 8]]])


def test_each_region_knows_its_image() -> None:
    rois = region_boxes.rois(REGIONS)
    assert rois[:, 0].tolist() == [0, 0, 1, 1]
    assert torch.equal(rois[:, 1:], REGIONS.reshape(-1, 4))


def test_a_region_that_nothing_is_said_of_stays_where_it_is() -> None:
    assert torch.equal(region_boxes.moved(torch.zeros(2, 2, 4), REGIONS), REGIONS)


def test_a_region_moves_by_parts_of_itself_and_grows_by_factors() -> None:
    deltas = torch.tensor([0.25, -0.5, math.log(2), math.log(0.5)])
    box = region_boxes.moved(deltas, REGIONS[0, 0])
    # 40 x 20 around (30, 30): the middle goes to (40, 20), the sides become 80 and 10.
    torch.testing.assert_close(box, torch.tensor([0.0, 15, 80, 25]))


def test_no_box_of_an_untrained_network_is_infinite() -> None:
    assert region_boxes.moved(torch.full((2, 2, 4), 1e4), REGIONS).isfinite().all()


def test_rows_that_are_not_used_score_nothing_and_the_others_share_one_with_the_background() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 4)
    scores = region_boxes.scores(logits, REGIONS)
    assert not scores[0, 1].any()
    torch.testing.assert_close(scores[1].sum(dim=1), 1 - logits[1].softmax(dim=1)[:, 0])


def test_a_box_of_one_class_has_a_score_of_no_other() -> None:
    boxes, scores = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4)
    flat, spread = region_boxes.of_own_class(boxes, scores)
    assert flat.shape == (2, 12, 4)
    assert spread.shape == (2, 4, 12)
    for region in range(3):
        for kind in range(4):
            place = region * 4 + kind
            assert torch.equal(flat[:, place], boxes[:, region, kind])
            assert torch.equal(spread[:, kind, place], scores[:, region, kind])
    assert (spread > 0).sum() == 2 * 12
