"""What the parts of an image speak for: worked out by hand for small heads, and told where it cannot be had."""

import pytest
import torch
from tests.unit.export import tiny
from torch import Tensor, nn

from retinue_export import evidence
from retinue_export.evidence import NoEvidenceError


def images(height: int = 8, width: int = 6) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))


def body(channels: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())


class Net(nn.Module):
    """A body, and what a test calls a head."""

    def __init__(self, head: nn.Module, channels: int = 5) -> None:
        super().__init__()
        self.body = body(channels)
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pixels))
        return logits


class FunctionalPooling(nn.Module):
    """Pools by a method of the tensor, and flattens by the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features.mean((2, 3)).view(features.size(0), -1))
        return logits


class ChannelsLast(nn.Module):
    """Goes on as windowed transformers do, with the channels at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)
        self.fc = nn.Linear(5, 4)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(features.permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


LINEAR_HEADS = {
    "adaptive": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    "fixed size": lambda: nn.Sequential(nn.AvgPool2d((8, 6)), nn.Flatten(), nn.Dropout(), nn.Linear(5, 4)),
    "functional": FunctionalPooling,
    "channels last": ChannelsLast,
    "convolution before the pooling": lambda: nn.Sequential(
        nn.Conv2d(5, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
}


@pytest.mark.parametrize("kind", LINEAR_HEADS)
@torch.no_grad()
def test_the_mean_of_the_evidence_is_the_answer(kind: str) -> None:
    network = Net(LINEAR_HEADS[kind]()).eval()
    logits, parts = evidence.attach(network, images())(images())
    assert parts.shape == (3, 8, 6, 4)
    assert torch.equal(logits, network(images()))
    torch.testing.assert_close(parts.mean((1, 2)), logits)
    assert parts.std() > 0.02


@torch.no_grad()
def test_evidence_is_the_weighted_features_of_each_position() -> None:
    head = nn.Linear(5, 4)
    network = Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)).eval()
    _, parts = evidence.attach(network, images())(images())
    features = network.body(images())
    by_hand = torch.einsum("nchw,kc->nhwk", features, head.weight) + head.bias
    torch.testing.assert_close(parts, by_hand)


@torch.no_grad()
def test_dense_layers_after_the_mean_become_convolutions() -> None:
    first, second = nn.Linear(5, 7), nn.Linear(7, 4)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), first, nn.Hardswish(), second)
    network = Net(head).eval()
    _, parts = evidence.attach(network, images())(images())
    hidden = nn.functional.conv2d(network.body(images()), first.weight[:, :, None, None], first.bias)
    by_hand = nn.functional.conv2d(
        nn.functional.hardswish(hidden), second.weight[:, :, None, None], second.bias
    )
    torch.testing.assert_close(parts, by_hand.permute(0, 2, 3, 1))


def vgg_like(height: int, width: int) -> Net:
    """Pools to a map of fixed size, all of which a dense layer takes."""
    dense = (nn.Flatten(), nn.Linear(5 * height * width, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4))
    return Net(nn.Sequential(nn.AdaptiveAvgPool2d((height, width)), *dense)).eval()


@torch.no_grad()
def test_a_dense_layer_over_the_map_becomes_a_convolution_of_its_size() -> None:
    network = vgg_like(5, 3)
    logits, parts = evidence.attach(network, images())(images())
    pool, _, first, _, _, second = network.head
    pooled = pool(network.body(images()))
    hidden = nn.functional.conv2d(pooled, first.weight.view(7, 5, 5, 3), first.bias, padding=(2, 1)).relu()
    by_hand = nn.functional.conv2d(hidden, second.weight[:, :, None, None], second.bias)
    torch.testing.assert_close(parts, by_hand.permute(0, 2, 3, 1))
    torch.testing.assert_close(parts[:, 2, 1], logits)  # where the window is the whole map


@torch.no_grad()
def test_windows_of_even_size_do_not_move_the_evidence() -> None:
    network = vgg_like(4, 6)
    mirrored = vgg_like(4, 6)
    mirrored.load_state_dict(network.state_dict())
    convolution, dense = mirrored.body[0], mirrored.head[2]
    convolution.weight.copy_(convolution.weight.flip(2, 3))
    dense.weight.copy_(dense.weight.view(7, 5, 4, 6).flip(2, 3).flatten(1))
    _, parts = evidence.attach(network, images())(images())
    _, turned = evidence.attach(mirrored, images())(images().flip(2, 3))
    assert parts.shape == (3, 4, 6, 4)
    torch.testing.assert_close(turned.flip(1, 2), parts)


@torch.no_grad()
def test_a_convolution_over_the_whole_map_counts_as_dense() -> None:
    network = Net(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(5, 4, (4, 3)), nn.Flatten())).eval()
    logits, parts = evidence.attach(network, images())(images())
    pooled = nn.functional.max_pool2d(network.body(images()), 2)
    assert parts.shape == (3, 4, 3, 4)
    assert not torch.equal(parts[:, 0, 0], logits)
    wide = nn.functional.conv2d(
        nn.functional.pad(pooled, (1, 1, 2, 2)), network.head[1].weight, network.head[1].bias
    )
    by_hand = (wide[:, :, 1:] + wide[:, :, :-1]) / 2
    torch.testing.assert_close(parts, by_hand.permute(0, 2, 3, 1))


def test_parameters_keep_their_names() -> None:
    network = tiny.network()
    attached = evidence.attach(network, images())
    assert dict(attached.named_parameters()).keys() == dict(network.named_parameters()).keys()


class Attention(nn.Module):
    """Positions look at each other, and the answer is read off one more token, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 49, 5))
        self.fc = nn.Linear(5, 4)

    def forward(self, features: Tensor) -> Tensor:
        tokens = torch.cat(
            [features.flatten(2).transpose(1, 2), self.place[:, :1].expand(features.shape[0], 1, 5)], 1
        )
        mixed = torch.softmax(tokens @ tokens.transpose(1, 2), dim=-1) @ tokens
        logits: Tensor = self.fc(mixed[:, -1])
        return logits


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.fc = nn.Linear(8, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        both = torch.cat([self.body(pixels).mean((2, 3)), pixels.amax((2, 3))], 1)
        logits: Tensor = self.fc(both)
        return logits


class Undecided(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3)) if pixels.sum() > 0 else pixels.amax((2, 3))


REFUSED = {
    "neither goes on from the mean": Net(Attention()),
    "begins with a dense layer": Net(nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4))),
    "does not come from one map": Branching(),
    "exporter cannot follow": Undecided(),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_network_without_evidence_is_told_why(reason: str) -> None:
    with pytest.raises(NoEvidenceError, match=reason):
        evidence.attach(REFUSED[reason].eval(), images())


def test_a_map_of_too_many_positions_is_refused() -> None:
    network = Net(nn.Sequential(nn.Flatten(), nn.Linear(5 * 64 * 64, 4))).eval()
    with pytest.raises(NoEvidenceError, match="too many positions"):
        evidence.attach(network, images(64, 64))


def test_a_network_that_answers_all_images_alike_proves_nothing() -> None:
    network = tiny.network()
    nn.init.zeros_(network[5].weight)
    with pytest.raises(NoEvidenceError):
        evidence.attach(network, images())
