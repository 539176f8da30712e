"""A bundle's own weights, back in the module that it was exported from."""

import onnx
import pytest
import torch
from tests.unit.export import tiny
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock

from retinue_export import folding, graph, parity, reference
from retinue_export.errors import ExportError
from retinue_export.packaging import classifier

PACKAGING = classifier(tiny.SPEC, tiny.NORMALISATION)


def exported(network: nn.Module) -> onnx.ModelProto:
    """The graph of a network, as a bundle holds it."""
    model = PACKAGING.graph(graph.rounded_to_fp16(folding.folded(network)))
    graph.store_as_fp16(model)
    return model


def resnet() -> nn.Module:
    """Untrained, so that all biases are zeros once batch normalisation is folded."""
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)


def densenet() -> nn.Module:
    """Most of its batch normalisation comes before a convolution and cannot be folded."""
    network = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                assert values is not None
                values.uniform_(0.5, 2)
    return network


class Weighing(nn.Module):
    """Its code makes a constant, and has batch normalisation that is folded by tracing the code."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.convolution(images)) * torch.arange(6)
        return self.dense(maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [resnet, densenet, Weighing])
def test_the_weights_of_a_graph_give_the_module_back(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = exported(make())
    rebuilt = folding.folded(make())
    reference.load_initialisers(rebuilt, model)
    actual = parity.runner(parity.session(model.SerializeToString()))
    parity.check(parity.compare(PACKAGING.reference(rebuilt), actual, tiny.images(9)))


class _Transposing(nn.Module):
    """Export folds the transposition into the weight, and so renames it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) @ self.weight.T


def test_a_weight_that_export_renamed_is_asked_for() -> None:
    with pytest.raises(ExportError, match=r"`network\.weight` of shape \(3, 3\) .* with --weights"):
        reference.load_initialisers(_Transposing(), exported(_Transposing()))


def test_a_bias_that_the_graph_holds_elsewhere_is_not_taken_for_zeros() -> None:
    network = tiny.network()
    model = exported(network)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "network.5.bias")
    for node in model.graph.node:
        node.input[:] = ["elsewhere" if name == bias.name else name for name in node.input]
    bias.name = "elsewhere"
    with pytest.raises(ExportError, match=r"`network\.5\.bias` of shape \(3,\)"):
        reference.load_initialisers(folding.folded(network), model)
