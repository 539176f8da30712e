"""The heatmap of a classifier's bundle: what it shows, that it costs the probabilities nothing, and what is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.unit.export import tiny
from torch import nn

from retinue_export import assembly, heatmaps, parity
from retinue_export.errors import ExportError, ParityError
from retinue_export.networks.cnn import FashionCnn
from retinue_server.bundle import manifest as manifest_file


@pytest.fixture(scope="module")
def located() -> assembly.Exported:
    return assembly.export(heatmaps.add(tiny.candidate()))


def test_the_heatmap_is_the_evidence_for_the_named_class_over_the_average_class(
    located: assembly.Exported,
) -> None:
    images = tiny.images(9)
    answers = parity.runner(parity.session(located.content))(images)
    convolution, _, _, _, _, dense = located.shipped
    pixels = heatmaps.Locating(nn.Identity(), tiny.NORMALISATION.mean, tiny.NORMALISATION.deviation)
    with torch.no_grad():
        features = convolution(pixels.normalise(torch.from_numpy(images))).relu()
        logits = dense(features.permute(0, 2, 3, 1))
    assert answers["heatmap"].shape == (9, 8, 6)
    for row in range(9):
        best = int(answers["probabilities"][row].argmax())
        expected = logits[row, ..., best] - logits[row].mean(dim=-1)
        np.testing.assert_allclose(answers["heatmap"][row], expected.numpy(), atol=1e-5)
        assert answers["heatmap"][row].mean() > 0


def test_the_probabilities_are_those_of_the_graph_without_heatmap_to_the_last_bit(
    located: assembly.Exported,
) -> None:
    images = tiny.images(9)
    plain = parity.runner(parity.session(assembly.export(tiny.candidate()).content))(images)
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    (alone,) = parity.session(located.content).run(["probabilities"], {"images": images}, options)
    assert np.array_equal(alone, plain["probabilities"])


def test_both_heads_share_their_weights(located: assembly.Exported) -> None:
    names = [tensor.name for tensor in onnx.load_from_string(located.content).graph.initializer]
    assert sum("5.weight" in name for name in names) == 1


def test_manifest_and_certificate_say_what_the_heatmap_is(tmp_path: Path) -> None:
    folder = assembly.build(heatmaps.add(tiny.candidate()), tmp_path, 1, lambda _stage: None)
    manifest = manifest_file.read(folder)
    assert (manifest.classify.heatmap_height, manifest.classify.heatmap_width) == (8, 6)
    assert [entry.output for entry in manifest.parity.outputs] == ["probabilities", "heatmap"]
    assert manifest.parity.outputs[1].tolerance == parity.TOLERANCES["heatmap"]
    assert [entry.output for entry in manifest.parity.rounding] == ["probabilities", "heatmap"]


class _OtherwiseTraced(nn.Module):
    """A network that tracing takes for another one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny.network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits if torch.compiler.is_exporting() else 2 * logits


def test_probabilities_are_compared_with_the_network_and_not_with_its_trace(tmp_path: Path) -> None:
    traced = heatmaps.add(replace(tiny.candidate(), network=_OtherwiseTraced().eval()))
    with pytest.raises(ParityError, match="`probabilities` differs from PyTorch"):
        assembly.build(traced, tmp_path, 1, lambda _stage: None)
    assert list(tmp_path.rglob("*")) == []


def test_a_bundles_heatmap_that_its_network_has_none_for_is_told_in_a_sentence() -> None:
    manifest, packaging = heatmaps.add(tiny.candidate()).manifest, tiny.candidate().packaging
    with pytest.raises(ExportError, match=r"^No heatmap can be had from the network .*--no-heatmap"):
        heatmaps.of_bundle(manifest, packaging, tiny.images(4)).reference(nn.Flatten())


def test_heatmaps_are_compared_where_both_sides_name_the_same_class() -> None:
    images = tiny.images(2)
    answer = {
        "probabilities": np.array([[0.5, 0.5], [0.9, 0.1]], np.float32),
        "heatmap": np.zeros((2, 2, 2), np.float32),
    }
    tied = {
        "probabilities": np.array([[0.49999, 0.50001], [0.9, 0.1]], np.float32),
        "heatmap": np.stack([np.full((2, 2), 7, np.float32), np.full((2, 2), 0.25, np.float32)]),
    }
    _, heatmap = parity.compare(lambda _: answer, lambda _: tied, images, batch_sizes=(2,))
    assert heatmap.max_difference == 0.25


def test_the_fashion_classifier_has_one() -> None:
    network = FashionCnn().eval()
    located = heatmaps.evidence.attach(network, torch.randn(2, 1, 28, 28))
    with torch.no_grad():
        _, parts = located(torch.randn(5, 1, 28, 28))
    assert parts.shape == (5, 3, 3, 10)
