"""From module to graph: nothing may change but what is meant to."""

import numpy as np
import onnx
import pytest
import torch
from tests.unit.export import tiny
from torch import nn
from torchvision.ops import roi_pool

from retinue_export import folding, graph, parity
from retinue_export.zoo import region_boxes


@pytest.fixture(scope="module")
def module() -> nn.Module:
    rounded = graph.rounded_to_fp16(folding.folded(tiny.network()))
    return graph.Classifying(rounded, tiny.NORMALISATION.mean, tiny.NORMALISATION.deviation).eval()


@pytest.fixture(scope="module")
def model(module: nn.Module) -> onnx.ModelProto:
    return graph.export(module, torch.zeros(2, 8, 6, 3, dtype=torch.uint8), ["probabilities"])


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
    module = graph.Classifying(folding.folded(tiny.network()), *map(tuple, ((0.5,) * 3, (0.2,) * 3)))
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
