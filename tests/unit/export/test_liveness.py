"""Networks as built answer nothing that could be compared; afterwards they do."""

import pytest
import torch
from torch import Tensor, nn

from retinue_export.catalogue.liveness import ANSWER_DEVIATION, enliven


def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(16, 3, 8, 8) * torch.rand(16, 3, 1, 1)


class ZeroHead(nn.Module):
    """As a vision transformer: a token and a head of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 12))
        self.body = nn.Linear(192, 12)
        self.head = nn.Linear(12, 5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)) + self.token)


class ScaledBlock(nn.Module):
    """As a ConvNeXt: a branch that counts for a millionth."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(3, 3, 3, padding=1)
        self.layer_scale = nn.Parameter(torch.full((3, 1, 1), 1e-6))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layer_scale * self.branch(images)


def test_a_head_of_zeros_answers() -> None:
    network = ZeroHead().eval()
    assert not network(images()).any()
    enliven(network, images())
    assert network.token.std() > 0
    assert network(images()).std(dim=0).min() > 0.1


def test_logits_spread_as_far_as_a_softmax_can_tell() -> None:
    network = ZeroHead().eval()
    enliven(network, images())
    logits = network(images())
    assert logits.mean(dim=0).abs().max() < 0.01
    assert (logits - logits.mean(dim=0)).std().item() == pytest.approx(ANSWER_DEVIATION, rel=0.05)


def test_a_branch_that_counts_for_nothing_counts() -> None:
    network = nn.Sequential(ScaledBlock(), nn.Flatten(), nn.Linear(192, 4)).eval()
    enliven(network, images())
    before = network(images())
    network[0].branch.weight.data.neg_()
    assert (network(images()) - before).abs().max() > 0.1


def test_normalisation_knows_the_images_and_keeps_them_apart() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()
    norm = network[1]
    enliven(network, images())
    assert not norm.training
    with torch.no_grad():
        maps = network[0](images())
    assert torch.allclose(norm.running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-5)
    assert norm.weight.min() < norm.weight.max()


def test_maps_are_spread_through_the_last_layer_that_has_a_bias() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False)).eval()
    enliven(network, images())
    logits = network(images())
    assert logits.std() > 0.5
    assert len(logits.argmax(dim=1).unique()) > 1


def test_the_same_seed_gives_the_same_weights() -> None:
    answers = []
    for _ in range(2):
        torch.manual_seed(3)
        network = ZeroHead().eval()
        torch.manual_seed(4)
        images_seen = torch.rand(4, 3, 8, 8)
        enliven(network, images_seen)
        answers.append(network(images_seen))
    assert torch.equal(*answers)
