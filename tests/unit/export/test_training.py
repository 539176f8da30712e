"""The training loop, the losses and the networks on tiny problems."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from retinue_export import detection_loss, training
from retinue_export.muon import Muon, orthogonalised
from retinue_export.networks.blocks import normalised
from retinue_export.networks.cnn import FashionCnn, shift_and_flip
from retinue_export.networks.detector import STRIDE, Detector, cell_centres
from retinue_export.networks.segmenter import Segmenter
from retinue_export.recipes.scene_batches import NORMALISATION
from retinue_export.training import Batch, Schedule, fit


def separable() -> Iterator[Batch]:
    """Whether an image is brighter on its left or its right half."""
    generator = torch.Generator().manual_seed(0)
    while True:
        images = torch.rand(32, 1, 4, 4, generator=generator)
        labels = (images[..., :2].sum((1, 2, 3)) > images[..., 2:].sum((1, 2, 3))).long()
        yield images, labels


def cross_entropy(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]).float(), batch[1])


def trained(average_decay: float = 0.0, hidden_learning_rate: float = 0.0) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 2))
    network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8, 2))
    losses: list[float] = []
    schedule = Schedule(
        150, learning_rate=0.05, hidden_learning_rate=hidden_learning_rate, average_decay=average_decay
    )
    result = fit(
        network, separable(), cross_entropy, schedule, lambda _done, _steps, loss: losses.append(loss)
    )
    return result, losses


@pytest.mark.parametrize(("average_decay", "hidden_learning_rate"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.03)])
def test_training_learns_and_returns_a_network_in_evaluation_mode(
    average_decay: float, hidden_learning_rate: float
) -> None:
    network, losses = trained(average_decay, hidden_learning_rate)
    assert len(losses) == 150
    assert losses[-1] < 0.6 * losses[0]
    assert not network.training
    images, labels = next(separable())
    assert (network(images).argmax(1) == labels).float().mean() > 0.9


def test_the_same_seed_trains_the_same_network() -> None:
    first, second = trained()[0], trained()[0]
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_orthogonalising_brings_singular_values_near_one_and_keeps_their_directions(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    made = left.T @ orthogonalised(left * torch.logspace(-1, 1, 24) @ right) @ right.T
    assert 0.6 < made.diagonal().min() < made.diagonal().max() < 1.3
    assert (made - made.diagonal().diag()).abs().max() < 1e-3


def test_muon_steps_by_the_learning_rate_whatever_the_size_of_the_gradient() -> None:
    for size in (1e-6, 1.0, 1e6):
        filters = nn.Parameter(torch.zeros(4, 2, 3, 3))
        filters.grad = size * torch.eye(4, 18).view(4, 2, 3, 3)
        Muon([filters], lr=0.1, weight_decay=0.5).step()
        assert torch.allclose(filters.detach().flatten(1), -0.1 * torch.eye(4, 18), atol=0.04)


def test_muon_learns_convolutions_and_transposed_ones_but_not_the_first() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Linear(2, 2)
    )
    adam, muon = training._optimizers(network, Schedule(steps=1, learning_rate=0.1, hidden_learning_rate=0.1))
    learned = [parameter for group in muon.param_groups for parameter in group["params"]]
    assert len(learned) == 2
    assert all(parameter is layer.weight for parameter, layer in zip(learned, network[1:3], strict=True))
    others = [parameter for group in adam.param_groups for parameter in group["params"]]
    assert len(others) == len(list(network.parameters())) - 2


def test_muon_keeps_going_and_decays_by_the_learning_rate() -> None:
    filters = nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([filters], lr=0.1, weight_decay=0.5)
    filters.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.allclose(filters.detach(), torch.full((2, 2), 0.95))
    filters.grad = torch.eye(2)
    optimizer.step()
    after_one = filters.detach().clone()
    filters.grad = torch.zeros(2, 2)
    optimizer.step()
    assert (filters.diagonal() < after_one.diagonal() - 0.05).all()


def test_the_classifier_is_the_one_that_was_asked_for() -> None:
    layers = [part for part in FashionCnn().modules() if not list(part.children())]
    widths = [(part.out_channels, *part.kernel_size) for part in layers if isinstance(part, nn.Conv2d)]
    assert widths == [(64, 7, 7), (128, 3, 3), (128, 3, 3), (256, 3, 3), (256, 3, 3)]
    assert [part.out_features for part in layers if isinstance(part, nn.Linear)] == [128, 64, 10]
    assert [part.p for part in layers if isinstance(part, nn.Dropout)] == [0.5, 0.5]
    assert sum(isinstance(part, nn.MaxPool2d) for part in layers) == 3
    assert not any(isinstance(part, nn.BatchNorm2d) for part in layers)


def test_shifting_moves_a_pixel_by_at_most_the_reach_and_mirrors_half_of_the_images() -> None:
    images = torch.zeros(400, 1, 9, 9)
    images[:, :, 4, 6] = 1
    moved = shift_and_flip(images, torch.Generator().manual_seed(0), reach=1)
    places = moved.nonzero()
    assert len(places) == 400
    assert set(places[:, 2].tolist()) == {3, 4, 5}
    assert set(places[:, 3].tolist()) == {5, 6, 7} | {1, 2, 3}
    assert 150 < (places[:, 3] < 4).sum() < 250


def test_the_detector_gives_a_box_and_scores_for_each_cell() -> None:
    boxes, logits = Detector(classes=4).eval()(torch.zeros(2, 3, 64, 96))
    assert boxes.shape == (2, 8 * 12, 4)
    assert logits.shape == (2, 8 * 12, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    centre = (boxes[0, 13, :2] + boxes[0, 13, 2:]) / 2
    assert (centre - cell_centres(8, 12)[13]).abs().max() < STRIDE * 2


def test_the_segmenter_scores_pixels_half_as_large_as_those_it_is_given() -> None:
    assert Segmenter(classes=5).eval()(torch.zeros(2, 3, 32, 48)).shape == (2, 5, 64, 96)


@torch.no_grad()
def test_the_segmenter_learns_from_some_of_the_scores_it_answers_with() -> None:
    torch.manual_seed(0)
    network = Segmenter(classes=5).eval()
    torch.nn.init.normal_(network.detail.weight)
    images = torch.randn(2, 3, 32, 48)

    def whole(images: Tensor) -> Tensor:
        parts = [[network.every_second(images, top, left) for left in (0, 1)] for top in (0, 1)]
        return torch.stack([torch.stack(row, -1).flatten(-2) for row in parts], -2).flatten(-3, -2)

    both_ways = (whole(images) + whole(images.flip(3)).flip(3)) / 2
    torch.testing.assert_close(interpolate(both_ways, scale_factor=2, mode="bilinear"), network(images))


def test_the_graph_normalises_as_training_did() -> None:
    levels = torch.arange(256.0)
    mean, deviation = NORMALISATION.mean[0], NORMALISATION.deviation[0]
    torch.testing.assert_close(normalised(levels), (levels / 255 - mean) / deviation)


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Centres of 8x8 cells, boxes of two images (the second has one object, and padding), and beliefs about them."""
    boxes = torch.tensor([[[4.0, 4, 28, 28], [32, 32, 60, 60]], [[10, 10, 40, 40], [0, 0, 0, 0]]])
    beliefs = torch.tensor([[[0.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0]]])
    return cell_centres(8, 8), boxes, beliefs


def test_cells_are_assigned_inside_their_object_and_never_to_padding() -> None:
    centres, boxes, beliefs = scene()
    predicted = torch.cat([centres - 12, centres + 12], dim=1).expand(2, -1, -1)
    made = detection_loss.assign(predicted, torch.full((2, 64, 3), 0.5), centres, boxes, beliefs)
    assert made.positive.any(dim=1).all()
    for image in range(2):
        cells = centres[made.positive[image]]
        owners = made.target_boxes[image][made.positive[image]]
        assert ((cells > owners[:, :2]) & (cells < owners[:, 2:])).all()
    assert made.target_scores[0, :, 0].sum() == 0
    assert made.target_scores[1, :, 1:].sum() == 0
    assert made.target_scores[~made.positive].sum() == 0
    assert 0 < made.target_scores.max() <= 1


def test_right_answers_cost_less_than_wrong_ones() -> None:
    centres, boxes, beliefs = scene()
    owner = torch.where(centres.sum(1) > 64, 1, 0)
    right_boxes = torch.stack([boxes[0][owner], boxes[1][0].expand(64, 4)])
    right_logits = torch.full((2, 64, 3), -6.0)
    made = detection_loss.assign(right_boxes, right_logits.sigmoid(), centres, boxes, beliefs)
    right_logits[made.target_scores > 0.5] = 6.0
    right = detection_loss.detection_loss(right_boxes, right_logits, centres, boxes, beliefs)
    confused = detection_loss.detection_loss(
        right_boxes, right_logits.roll(1, dims=2), centres, boxes, beliefs
    )
    moved = detection_loss.detection_loss(right_boxes + 9, right_logits, centres, boxes, beliefs)
    assert right < 0.5 * confused
    assert right < 0.5 * moved


def test_a_doubtful_object_asks_for_some_score_of_each_class_it_may_be() -> None:
    centres, boxes, beliefs = scene()
    beliefs[0, 0] = torch.tensor([0.25, 0.75, 0.0])
    predicted = torch.cat([centres - 12, centres + 12], dim=1).expand(2, -1, -1)
    made = detection_loss.assign(predicted, torch.full((2, 64, 3), 0.5), centres, boxes, beliefs)
    of_it = made.target_scores[0][(made.target_boxes[0] == boxes[0, 0]).all(1) & made.positive[0]]
    assert len(of_it) > 0
    torch.testing.assert_close(of_it[:, 0] * 3, of_it[:, 1])
    assert not of_it[:, 2].any()


def test_cells_are_assigned_by_the_classes_that_an_object_may_be() -> None:
    centres, boxes, beliefs = scene()
    beliefs[0, 0] = torch.tensor([0.25, 0.75, 0.0])
    predicted = boxes[:, :1].expand(-1, 64, -1)
    scores = torch.full((2, 64, 3), 0.01)
    scores[0, 0], scores[0, 9] = torch.tensor([0.0, 0.0, 0.9]), torch.tensor([0.0, 0.9, 0.0])
    made = detection_loss.assign(predicted, scores, centres, boxes, beliefs)
    strength = made.target_scores[0].sum(dim=1)
    assert strength.argmax().item() == 9
    assert strength[0] < 0.1 * strength[9]


def test_an_image_without_objects_has_a_finite_loss() -> None:
    centres, boxes, _ = scene()
    nothing = torch.zeros(2, 2, 3)
    predicted = torch.cat([centres - 12, centres + 12], dim=1).expand(2, -1, -1)
    value = detection_loss.detection_loss(predicted, torch.zeros(2, 64, 3), centres, boxes, nothing)
    assert value.isfinite()
