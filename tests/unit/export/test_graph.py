"""From module to graph: nothing may change but what is meant to."""

import numpy as np
import onnx
import pytest
import torch
from tests.unit.export import tiny
from torch import nn
from torchvision.ops import roi_pool

from retinue_export import graph, parity
from retinue_export.zoo import region_boxes


@pytest.fixture(scope="module")
def module() -> nn.Module:
    rounded = graph.rounded_to_fp16(graph.folded(tiny.network()))
    return graph.Classifying(rounded, tiny.NORMALISATION.mean, tiny.NORMALISATION.deviation).eval()


@pytest.fixture(scope="module")
def model(module: nn.Module) -> onnx.ModelProto:
    return graph.export(module, torch.zeros(2, 8, 6, 3, dtype=torch.uint8), ["probabilities"])


def test_folding_removes_batch_normalisation_and_changes_nothing_else() -> None:
    network = tiny.network()
    folded = graph.folded(network)
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
    folded = graph.folded(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), atol=1e-6, rtol=1e-5)


class _Branching(_Separate):
    """Likewise, and with a branch on values that cannot be traced."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) if images.sum() > 0 else images


def test_batch_normalisation_outside_of_a_sequential_is_folded_too() -> None:
    assert not any(isinstance(part, nn.BatchNorm2d) for part in graph.folded(_Separate()).modules())


class _BranchingOutside(nn.Module):
    """A branch that cannot be traced, around a part that can."""

    def __init__(self) -> None:
        super().__init__()
        self.part = _Separate()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(images) if images.sum() > 0 else images


def test_parts_are_folded_where_the_whole_cannot_be_traced() -> None:
    network = _BranchingOutside().eval()
    folded = graph.folded(network)
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
    torch.testing.assert_close(graph.folded(network)(images), network.eval()(images))


def test_a_module_that_cannot_be_traced_stays_as_it_is() -> None:
    assert any(isinstance(part, nn.BatchNorm2d) for part in graph.folded(_Branching()).modules())


def test_rounded_weights_survive_16_bits_unchanged() -> None:
    network = tiny.network()
    for name, parameter in graph.rounded_to_fp16(network).named_parameters():
        if parameter.ndim > 1:
            assert torch.equal(parameter, parameter.half().float())
            assert not torch.equal(parameter, network.get_parameter(name))
            torch.testing.assert_close(parameter, network.get_parameter(name), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_takes_any_batch_of_pixels_and_agrees_with_the_module(
    module: nn.Module, model: onnx.ModelProto, batch: int
) -> None:
    images = tiny.images(batch)
    actual = parity.runner(parity.session(model.SerializeToString()))(images)["probabilities"]
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(actual.sum(axis=1), 1, atol=1e-6)


def test_storing_weights_in_16_bits_makes_the_graph_smaller_and_changes_no_number(
    model: onnx.ModelProto,
) -> None:
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph.store_as_fp16(smaller)
    assert smaller.ByteSize() < model.ByteSize()
    onnx.checker.check_model(smaller, full_check=True)
    images = tiny.images(3)
    before = parity.runner(parity.session(model.SerializeToString()))(images)
    after = parity.runner(parity.session(smaller.SerializeToString()))(images)
    np.testing.assert_array_equal(before["probabilities"], after["probabilities"])


def test_weights_that_16_bits_would_change_stay_in_32() -> None:
    module = graph.Classifying(graph.folded(tiny.network()), *map(tuple, ((0.5,) * 3, (0.2,) * 3)))
    model = graph.export(module, torch.zeros(2, 8, 6, 3, dtype=torch.uint8), ["probabilities"])
    before = model.SerializeToString()
    graph.store_as_fp16(model)
    assert model.SerializeToString() == before


def test_a_graph_tells_nothing_of_the_machine_that_made_it(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    assert b"/" + b"retinue_export" not in content
    assert b".py" not in content
    assert model.producer_name == "retinue-export"


def test_a_class_map_names_the_highest_class_of_each_pixel() -> None:
    torch.manual_seed(0)
    module = graph.Segmenting(nn.Conv2d(3, 5, 1), (0.5,) * 3, (0.2,) * 3)
    images = torch.from_numpy(tiny.images(2))
    with torch.no_grad():
        class_map = module(images)
        logits = module.network(module.normalise(images))
    assert class_map.dtype == torch.uint8
    assert class_map.shape == (2, 8, 6)
    assert torch.equal(logits.argmax(1), class_map.long())


class _Pooling(nn.Module):
    """Means of the largest values in each region, and where it is."""

    def forward(self, images: torch.Tensor, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = roi_pool(images.permute(0, 3, 1, 2).float(), region_boxes.rois(regions), (2, 3), 0.5)
        return pooled.mean(dim=(2, 3)).reshape(-1, regions.shape[1], 3), regions * 2


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_graph_takes_regions_beside_images_and_pools_what_is_in_them(
    pooling: onnx.ModelProto, batch: int
) -> None:
    session = parity.session(pooling.SerializeToString())
    images = tiny.images(batch)
    # 4.9 and 5 are on both sides of where a place of the map begins.
    regions = np.array([[0, 0, 6, 8], [1, 4.9, 5, 8], [1, 5, 5, 8], [0, 0, 0, 0]], np.float32)
    regions = np.tile(regions, (batch, 1, 1)) * np.linspace(0.5, 1, batch, dtype=np.float32)[:, None, None]
    actual = session.run(["pooled", "twice"], {"images": images, "regions": regions})
    expected = _Pooling()(torch.from_numpy(images), torch.from_numpy(regions))
    for found, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


@pytest.fixture(scope="module")
def pooling() -> onnx.ModelProto:
    images = torch.zeros(2, 8, 6, 3, dtype=torch.uint8)
    return graph.export(_Pooling(), images, ["pooled", "twice"], {"regions": torch.zeros(2, 4, 4)})
