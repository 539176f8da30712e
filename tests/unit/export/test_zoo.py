"""The zoo's networks are those of their papers."""

import pytest
import torch
from torch import nn

from retinue_export.catalogue import rows
from retinue_export.zoo import deconvnet, fcn, lenet, zfnet


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("row", rows.matching(["lenet_5", "zfnet", "fcn_8s"]), ids=lambda row: row.name)
def test_each_takes_what_its_row_says(row: rows.Row) -> None:
    images = torch.rand(2, row.spec.channels, row.side, row.side)
    with torch.no_grad():
        assert row.build().eval()(images).shape[0] == 2


def test_lenet_has_the_60_000_parameters_of_its_paper() -> None:
    network = lenet.LeNet5()
    unseen = sum(
        int((part.mask.expand_as(part.weight) == 0).sum())
        for part in network.modules()
        if isinstance(part, lenet.PartialConvolution)
    )
    assert parameters(network) - unseen == 60_000


def test_a_map_that_lenet_does_not_see_changes_nothing() -> None:
    layer = lenet.PartialConvolution(3, ((0, 2), (1,)), 3)
    maps = torch.rand(1, 3, 5, 5)
    changed = maps.clone()
    changed[:, 1] += 1
    before, after = layer(maps), layer(changed)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_the_nearest_picture_is_lenets_answer() -> None:
    layer = lenet.RadialBasis(84, 10)
    assert layer(layer.pictures[3:4]).argmax().item() == 3
    assert layer(layer.pictures[3:4])[0, 3].item() == 0


def test_zfnet_has_the_sizes_of_figure_3() -> None:
    sides = []
    maps = torch.zeros(1, 3, 224, 224)
    for layer in zfnet.ZFNet().features:
        maps = layer(maps)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sides.append(maps.shape[2])
    assert sides == [110, 55, 26, 13, 13, 13, 13, 6]


def test_upsampling_begins_as_interpolation() -> None:
    ramp = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 2, 6, 6)
    with torch.no_grad():
        large = fcn.bilinear(2, 4)(ramp)
    # Away from the edges, a ramp of 1 a place becomes one of 1/4.
    inside = large[0, 0, 10:14, 8:20]
    assert torch.allclose(inside.diff(dim=1), torch.full_like(inside[:, 1:], 0.25))


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_an_fcn_answers_each_pixel_of_an_image_of_any_size(stride: int) -> None:
    network = fcn.FCN(stride, classes=3).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 50, 70)).shape == (1, 3, 50, 70)


def test_an_fcn_answers_where_things_are() -> None:
    """What is above in the image is above in the answer, at the same row, whatever was cropped on the way."""
    network = fcn.FCN(8, classes=1).eval()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            nn.init.zeros_(part.bias)
    nn.init.zeros_(network.score_32.weight)
    nn.init.zeros_(network.score_16.weight)
    images = torch.zeros(1, 3, 64, 96)
    images[:, :, 40:48, 16:24] = 1
    with torch.no_grad():
        answer = network(images)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    assert (rows * answer).sum() / answer.sum() == pytest.approx(43.5, abs=4)
    assert (columns * answer).sum() / answer.sum() == pytest.approx(19.5, abs=4)


def test_deconvnet_is_as_large_as_its_paper_says() -> None:
    with torch.device("meta"):
        network = deconvnet.DeconvNet()
    assert parameters(network) == pytest.approx(252e6, rel=0.01)


def test_deconvnet_puts_maxima_back_where_they_were() -> None:
    network = deconvnet.DeconvNet(classes=2)
    maps = torch.rand(1, 2, 4, 4)
    pooled, places = network.pool(maps)
    back = network.unpool(pooled, places)
    assert torch.equal(back[back > 0].sort().values, pooled.flatten().sort().values)
    assert torch.equal(back[back > 0], maps[back > 0])
