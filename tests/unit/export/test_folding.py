"""Batch normalisation is folded where that changes nothing, and nowhere else."""

import pytest
import torch
from tests.unit.export import tiny
from torch import nn

from retinue_export import folding


def test_folding_removes_batch_normalisation_and_changes_nothing_else() -> None:
    network = tiny.network()
    folded = folding.folded(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    images = torch.randn(4, 3, 8, 6)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), atol=1e-6, rtol=1e-5)


class _Separate(nn.Module):
    """Batch normalisation outside of a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(images))


def test_batch_normalisation_behind_an_upsampling_convolution_is_folded_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)).eval()
    norm = network[1]
    for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        values.uniform_(0.5, 2)
    folded = folding.folded(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), atol=1e-6, rtol=1e-5)


class _Branching(_Separate):
    """Likewise, and with a branch on values that cannot be traced."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) if images.sum() > 0 else images


def test_batch_normalisation_outside_of_a_sequential_is_folded_too() -> None:
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folding.folded(_Separate()).modules())


class _BranchingOutside(nn.Module):
    """A branch that cannot be traced, around a part that can."""

    def __init__(self) -> None:
        super().__init__()
        self.part = _Separate()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(images) if images.sum() > 0 else images


def test_parts_are_folded_where_the_whole_cannot_be_traced() -> None:
    network = _BranchingOutside().eval()
    folded = folding.folded(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.rand(2, 3, 8, 6)
    torch.testing.assert_close(folded(images), network(images))


class _Activating(nn.BatchNorm2d):
    """Batch normalisation and what follows it in one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).relu()


class _Standardised(nn.Conv2d):
    """A convolution that takes no notice of how large its weights are."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.weight / self.weight.std(), self.bias)


class _Backwards(nn.Sequential):
    """Parts that are not run in their order."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for part in reversed(self):
            images = part(images)
        return images


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 3, 1), _Activating(3)),
        nn.Sequential(_Standardised(3, 3, 1), nn.BatchNorm2d(3)),
        _Backwards(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
    ],
    ids=lambda network: "-".join(type(part).__name__ for part in network.modules()),
)
def test_what_only_looks_as_if_it_could_be_folded_computes_the_same(network: nn.Module) -> None:
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    images = torch.randn(4, 3, 8, 6)
    torch.testing.assert_close(folding.folded(network)(images), network.eval()(images))


def test_a_module_that_cannot_be_traced_stays_as_it_is() -> None:
    assert any(isinstance(part, nn.BatchNorm2d) for part in folding.folded(_Branching()).modules())


class _DeepStem(nn.Module):
    """Batch normalisation behind a Sequential that ends in a convolution, and in front of one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(nn.Sequential(nn.BatchNorm2d(4)), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.norm(self.stem(images)).relu()))


def test_batch_normalisation_before_and_behind_a_sequential_is_folded_too() -> None:
    network = _live(_DeepStem())
    folded = folding.folded(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(2, 3, 8, 6)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), atol=1e-5, rtol=1e-5)


class _Levels(nn.Module):
    """One convolution on two levels, with batch normalisation for each, as in EfficientDet."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine, coarse = (norm(self.convolution(images)) for norm in self.norms)
        return fine - coarse


class _Twice(nn.Module):
    """A convolution and its batch normalisation, run twice one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(self.norm(self.convolution(images))))


class _Peeking(nn.Module):
    """Uses what a part in it computes half way."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(images) + self.part[0](images)


class _ReadingWeight(nn.Module):
    """Reads a weight that two convolutions share, and runs only one of these."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.convolution = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.unused.weight = self.convolution.weight
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(images)) + nn.functional.conv2d(images, self.convolution.weight)


class _ReadingStatistics(_Twice):
    """Normalises once more by what a batch normalisation knows."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        again = nn.functional.batch_norm(images, self.norm.running_mean, self.norm.running_var)
        return self.norm(self.convolution(images)) + again


class _Calling(nn.Module):
    """Code that cannot be followed, and calls methods of a part that can."""

    class Part(_Twice):
        stride = 2

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return self(images)[:, :, :: self.stride]

    def __init__(self) -> None:
        super().__init__()
        self.part = self.Part()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum(self.part.features(images) for _ in range(images.shape[2]))  # type: ignore[return-value]


class _SharedTwice(nn.Module):
    """A dense layer and its batch normalisation, run twice, behind a convolution that stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.convolution = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        self.dense = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dense(self.dense(self.convolution(self.norm(images)).mean((2, 3))))


def _live(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    "network",
    [
        _Levels(),
        _Twice(),
        _Peeking(),
        _ReadingWeight(),
        _ReadingStatistics(),
        _Calling(),
        _SharedTwice(),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.ConvTranspose2d(3, 6, 2, 2, groups=3), nn.BatchNorm2d(6)),
        nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)),
    ],
    ids=lambda network: "-".join(type(part).__name__ for part in network.modules()),
)
def test_modules_that_share_or_hide_their_layers_compute_the_same(network: nn.Module) -> None:
    _live(network)
    images = torch.randn(4, 3, 8, 6)
    with torch.no_grad():
        torch.testing.assert_close(folding.folded(network)(images), network(images), atol=1e-5, rtol=1e-5)
