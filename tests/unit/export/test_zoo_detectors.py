"""The zoo's networks that find objects, or look at regions, are those of their papers."""

import pytest
import torch
from torch import nn
from torchvision.ops import ps_roi_pool

from retinue_export.zoo import fast_rcnn, overfeat, rcnn, region_boxes, rfcn, yolo, yolo_v3

REGIONS = torch.tensor([[[0.0, 0, 64, 64], [10, 8, 40, 60], [0, 0, 0, 0]]])


def parameters(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def sides(layers: nn.Module, side: int) -> list[int]:
    """Rows of what each convolution and pooling gives."""
    found = []
    maps = torch.zeros(1, 3, side, side, device="meta")
    for layer in layers.children():
        maps = layer(maps)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            found.append(maps.shape[2])
    return found


def test_overfeat_has_the_sizes_and_the_145_million_parameters_of_its_paper() -> None:
    with torch.device("meta"):
        network = overfeat.OverFeat()
    assert sides(network.features, overfeat.SIDE) == [56, 28, 24, 12, 12, 12, 12, 6]
    assert parameters(network.features, network.classes) == pytest.approx(145e6, rel=0.01)


def test_overfeat_answers_one_box_and_the_score_of_each_class() -> None:
    network = overfeat.OverFeat(classes=7, hidden=(8, 8), box_hidden=(8, 8)).eval()
    nn.init.zeros_(network.box[-1].weight)
    network.box[-1].bias.data = torch.tensor([0.25, 0.5, 0.75, 1.0])
    with torch.no_grad():
        box, scores = network(torch.rand(2, 3, overfeat.SIDE, overfeat.SIDE))
    torch.testing.assert_close(box, (torch.tensor([0.25, 0.5, 0.75, 1.0]) * 231).expand(2, 1, 4))
    assert scores.shape == (2, 7, 1)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2, 1))


def test_rcnn_is_caffes_alexnet() -> None:
    with torch.device("meta"):
        network = rcnn.RCNN()
        of_imagenet = nn.Linear(4096, 1000)
    assert sides(network.features, rcnn.SIDE) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert parameters(network.features, network.hidden, of_imagenet) == 60_965_224


def test_a_region_is_warped_with_16_pixels_of_what_is_around_it() -> None:
    image = torch.rand(1, 2, 227, 227)
    whole, moved = rcnn.warped(image, torch.tensor([[[16.0, 16, 211, 211], [116, 16, 311, 211]]]))
    torch.testing.assert_close(whole, image[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(moved[:, :, :126], image[0, :, :, 100:226], atol=1e-3, rtol=0)
    assert not moved[:, :, 128:].any()


def test_a_region_is_cut_out_of_its_own_image() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 40, 50)
    cut = rcnn.warped(images, torch.tensor([10.0, 10, 20, 20]).expand(3, 2, 4))
    torch.testing.assert_close(cut.mean(dim=(1, 2, 3)), torch.tensor([0.0, 0, 1, 1, 2, 2]))


def test_fast_rcnn_is_vgg_16() -> None:
    with torch.device("meta"):
        network = fast_rcnn.FastRCNN()
        of_imagenet = nn.Linear(4096, 1000)
        assert network.features(torch.zeros(1, 3, 96, 64)).shape == (1, 512, 6, 4)
    assert parameters(network.features, network.hidden, of_imagenet) == 138_357_544


@pytest.mark.parametrize("kind", [rcnn.RCNN, fast_rcnn.FastRCNN])
def test_each_class_has_a_box_of_each_region_that_is_used(
    kind: type[rcnn.RCNN] | type[fast_rcnn.FastRCNN],
) -> None:
    torch.manual_seed(0)
    network = kind(classes=2, hidden=8).eval()
    nn.init.zeros_(network.boxes.weight)
    network.boxes.bias.data = torch.tensor([0.0, 0, 0, 0, 0.5, 0, 0, 0])
    with torch.no_grad():
        boxes, scores = network(torch.rand(2, 3, 64, 64), REGIONS.expand(2, 3, 4))
    assert scores.shape == (2, 2, 6)
    assert ((scores > 0).sum(dim=1) == torch.tensor([1, 1, 1, 1, 0, 0])).all()
    torch.testing.assert_close(boxes[0, 2], REGIONS[0, 1])
    torch.testing.assert_close(boxes[0, 3], REGIONS[0, 1] + torch.tensor([15.0, 0, 15, 0]))


def test_rfcn_looks_at_every_16th_pixel_with_holes_in_its_last_filters() -> None:
    with torch.device("meta"):
        network = rfcn.RFCN()
        assert network.features(torch.zeros(1, 3, 96, 64)).shape == (1, 1024, 6, 4)
        boxes, scores = network(torch.zeros(2, 3, 96, 64), torch.zeros(2, 3, 4))
    assert (boxes.shape, scores.shape) == ((2, 3, 4), (2, 20, 3))
    assert network.classes.out_channels == 7 * 7 * 21
    assert network.boxes.out_channels == 7 * 7 * 4


def test_pooling_by_position_is_torchvisions() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3 * 49, 20, 24)
    # Of all sizes, some so small that parts share places of the map, some beyond the edges.
    starts = torch.rand(2, 300, 2) * torch.tensor([330.0, 270])
    regions = torch.cat([starts, starts + torch.rand(2, 300, 2) ** 2 * 300], dim=2)
    regions[:, :20] = regions[:, :20].round() + torch.tensor([0.0, 0, 8, 24])
    regions[:, -1] = 0
    # torchvision leaves out the last row and column of a map: here these are padding.
    padded = nn.functional.pad(maps, (0, 1, 0, 1))
    expected = ps_roi_pool(padded, region_boxes.rois(regions), rfcn.PARTS, 1 / rfcn.STRIDE)
    actual = rfcn.pool_by_position(maps, regions)
    torch.testing.assert_close(actual, expected.view(actual.shape), atol=1e-5, rtol=0)


def test_yolo_has_24_convolutions_and_ends_in_7_by_7_cells_of_30() -> None:
    with torch.device("meta"):
        network = yolo.YoloV1()
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 24
    assert sides(network.features, yolo.SIDE)[-1] == 7
    assert network.dense[-1].out_features == 7 * 7 * 30
    assert parameters(network) == 271_703_550


def test_a_cell_of_yolo_says_where_in_it_a_box_has_its_middle_and_how_long_the_sides_are() -> None:
    network = yolo.YoloV1(hidden=8).eval()
    cell = 2 * 7 + 3  # row 2, column 3
    said = torch.zeros(1470)
    said[cell * 20 + 5] = 0.8
    said[49 * 20 + cell * 2 + 1] = 0.5
    said[49 * 22 + (cell * 2 + 1) * 4 :][:4] = torch.tensor([0.5, 0.25, 0.6, 0.2])
    nn.init.zeros_(network.dense[-1].weight)
    network.dense[-1].bias.data = said
    with torch.no_grad():
        boxes, scores = network(torch.zeros(1, 3, yolo.SIDE, yolo.SIDE))
    assert (boxes.shape, scores.shape) == ((1, 98, 4), (1, 20, 98))
    assert scores.nonzero().tolist() == [[0, 5, cell * 2 + 1]]
    assert scores.max().item() == pytest.approx(0.4)
    middle, sides = torch.tensor([3.5, 2.25]) * 64, torch.tensor([0.36, 0.04]) * 448
    torch.testing.assert_close(boxes[0, cell * 2 + 1], torch.cat([middle - sides / 2, middle + sides / 2]))


def test_two_refusals_of_yolo_are_no_agreement() -> None:
    network = yolo.YoloV1(hidden=8).eval()
    nn.init.zeros_(network.dense[-1].weight)
    nn.init.constant_(network.dense[-1].bias, -0.9)
    with torch.no_grad():
        _, scores = network(torch.zeros(1, 3, yolo.SIDE, yolo.SIDE))
    assert not scores.any()


def test_yolo_v3_has_as_many_numbers_as_its_authors_weights_file() -> None:
    with torch.device("meta"):
        network = yolo_v3.YoloV3()
    statistics = sum(
        buffer.numel()
        for name, buffer in network.named_buffers()
        if name.rpartition(".")[2] != "num_batches_tracked"
    )
    assert parameters(network) + statistics == 62_001_757


def test_a_place_of_yolo_v3_makes_boxes_of_its_anchors() -> None:
    network = yolo_v3.YoloV3(classes=2).eval()
    for head in network.heads:
        nn.init.zeros_(head[-1].weight)
        nn.init.zeros_(head[-1].bias)
    with torch.no_grad():
        boxes, scores = network(torch.zeros(1, 3, 64, 96))
    places = [2 * 3 * 3, 4 * 6 * 3, 8 * 12 * 3]
    assert (boxes.shape, scores.shape) == ((1, sum(places), 4), (1, 2, sum(places)))
    assert (scores == 0.25).all()
    found = torch.cat([(boxes[0, :, :2] + boxes[0, :, 2:]) / 2, boxes[0, :, 2:] - boxes[0, :, :2]], dim=1)
    # At stride 32, row 1, column 2, the second anchor; at stride 8, row 0, column 1, the third.
    assert found[(1 * 3 + 2) * 3 + 1].tolist() == pytest.approx([80, 48, 156, 198])
    assert found[places[0] + places[1] + 1 * 3 + 2].tolist() == pytest.approx([12, 4, 33, 23])
