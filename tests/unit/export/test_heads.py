"""What detectors say of objects is neither nothing nor everything, and differs between images."""

import pytest
import torch
from torch import Tensor, nn

from retinue_export.catalogue.heads import Head, enliven_heads


class Detector(nn.Module):
    """Two maps, each of two anchors of five channels, the first of which is how likely there is something."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(6, 10, 1), nn.Conv2d(6, 10, 1)])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images)
        return [head(maps).unflatten(1, (2, 5)) for head in self.heads]


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(8, 3, 12, 12) * torch.rand(8, 3, 1, 1)


def test_the_channels_of_each_period_get_the_mean_and_deviation_that_are_asked_for(images: Tensor) -> None:
    network = Detector().eval()
    heads = (Head("heads.*", -4, 1.5, 0, 1, period=5), Head("heads.*", 0.5, 0.25, 1, period=5))
    enliven_heads(network, heads, lambda: network(images))
    for said in network(images):
        assert said[:, :, 0].mean().item() == pytest.approx(-4, abs=1e-3)
        assert said[:, :, 0].std().item() == pytest.approx(1.5, rel=0.02)
        assert said[:, :, 1:].mean().item() == pytest.approx(0.5, abs=1e-3)
        assert said[:, :, 1:].std().item() == pytest.approx(0.25, rel=0.02)


def test_each_channel_has_the_mean_so_that_no_class_is_that_of_all_regions(images: Tensor) -> None:
    network = Detector().eval()
    enliven_heads(network, (Head("heads.0", 0, 2),), lambda: network(images))
    assert network(images)[0].mean(dim=(0, 3, 4)).abs().max() < 1e-3


def test_normalisation_layers_see_the_images(images: Tensor) -> None:
    network = Detector().eval()
    enliven_heads(network, (), lambda: network(images))
    norm = network.body[1]
    torch.testing.assert_close(norm.running_mean, network.body[0](images).mean(dim=(0, 2, 3)))
    assert not norm.training
