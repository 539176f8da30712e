"""Foreign files become bundles that answer what the file answers, decoded as its exporter documents it."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic
from PIL import Image
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES
from tests.unit.export.adoptions import (
    Array,
    adopt,
    answers,
    assert_same,
    levels,
    original,
    photos,
    rows,
)
from torch import nn

from retinue_export import parity
from retinue_export.adoption.facts import Told
from retinue_export.adoption.heads import Activation, Probabilities
from retinue_export.errors import ExportError, ParityError
from retinue_server.bundle import manifest as manifest_file
from retinue_server.vision.spec import ResizeMode

PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.2, 0.25, 0.3],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 64, "width": 64},
}


# Hugging Face


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As PREPROCESSOR says."""
    mean, std = (np.array(PREPROCESSOR[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    return ((images.transpose(0, 3, 1, 2) / 255 - mean) / std).astype(np.float32)


def test_an_image_classifier_of_hugging_face_is_prepared_as_its_files_say(tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, PREPROCESSOR)
    folder = adopt(path)
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    powers = np.exp(np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1
    manifest = manifest_file.read(folder)
    assert list(manifest.labels) == NAMES
    assert manifest.input.resize.mode == pb.RESIZE_MODE_STRETCH
    assert manifest.input.resize.interpolation == pb.INTERPOLATION_BILINEAR


def test_classes_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Classifier(3), tmp_path / "vit", NAMES, PREPROCESSOR)
    config = {"id2label": dict(enumerate(NAMES)), "problem_type": "multi_label_classification"}
    (path.parent / "config.json").write_text(json.dumps(config))
    folder = adopt(path)
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    expected = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


def test_a_multi_label_file_that_ends_in_a_sigmoid_gets_no_second_one(tmp_path: Path) -> None:
    network = nn.Sequential(foreign.Classifier(3), nn.Sigmoid())
    path = foreign.hugging_face(network, tmp_path / "vit", NAMES, PREPROCESSOR)
    config = {"id2label": dict(enumerate(NAMES)), "problem_type": "multi_label_classification"}
    (path.parent / "config.json").write_text(json.dumps(config))
    folder = adopt(path)
    images = photos(folder)
    (expected,) = original(path, normalised(images))
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


def boxes_in_pixels(boxes: Array, number: int) -> NDArray[np.float32]:
    x, y, width, height = np.asarray(boxes, np.float32)[number].T * 64
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def test_detr_gives_each_query_its_best_class_but_none_for_no_object(tmp_path: Path) -> None:
    path = foreign.hugging_face(
        foreign.Detr(4), tmp_path / "detr", NAMES, PREPROCESSOR, ("logits", "pred_boxes")
    )
    folder = adopt(path)
    images = photos(folder)
    logits, boxes = original(path, normalised(images))
    powers = np.exp(np.asarray(logits, np.float64))
    chances = (powers / powers.sum(axis=2, keepdims=True))[..., :3]
    together = answers(folder, images)
    for number in range(len(images)):
        pixels = boxes_in_pixels(boxes, number)
        expected = [
            (int(chance.argmax()), float(chance.max()), box)
            for chance, box in zip(chances[number], pixels, strict=True)
            if chance.max() > 0.05
        ]
        assert expected
        assert_same(rows(together, number), sorted(expected, key=lambda entry: -entry[1]))
    assert manifest_file.read(folder).detect.default_score_threshold == 0.5


def test_relatives_of_detr_without_that_class_give_the_best_pairs(tmp_path: Path) -> None:
    path = foreign.hugging_face(
        foreign.Detr(3), tmp_path / "rt-detr", NAMES, PREPROCESSOR, ("logits", "pred_boxes")
    )
    folder = adopt(path)
    images = photos(folder)
    logits, boxes = original(path, normalised(images))
    together = answers(folder, images)
    for number in range(len(images)):
        pixels = boxes_in_pixels(boxes, number)
        scores = 1 / (1 + np.exp(-np.asarray(logits[number], np.float64)))
        pairs = [
            (kind, float(scores[query, kind]), pixels[query]) for query in range(12) for kind in range(3)
        ]
        best = sorted(pairs, key=lambda entry: -entry[1])[:12]
        assert_same(rows(together, number), [entry for entry in best if entry[1] > 0.05])


@pytest.mark.parametrize("native", [False, True])
def test_a_segformer_is_scaled_before_the_best_class_is_taken(native: bool, tmp_path: Path) -> None:
    path = foreign.hugging_face(foreign.Segmenter(3), tmp_path / "segformer", NAMES, PREPROCESSOR)
    folder = adopt(path, Told(native_map=native))
    images = photos(folder)
    (logits,) = original(path, normalised(images))
    layers = np.asarray(logits, np.float32)
    if not native:  # Pillow's bilinear filter, when it enlarges, is the one that does not align corners
        layers = np.stack(
            [
                [Image.fromarray(layer).resize((64, 64), Image.Resampling.BILINEAR) for layer in one]
                for one in layers
            ]
        )
    class_map = answers(folder, images)["class_map"]
    assert class_map.dtype == np.uint8
    assert class_map.shape == (7, *((16, 16) if native else (64, 64)))
    assert np.mean(class_map != layers.argmax(axis=1)) < 1e-3
    assert len(np.unique(class_map)) == 3


# Plain files


class _ChannelsLast(nn.Module):
    """A classifier that takes [N,H,W,C]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Classifier(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.permute(0, 3, 1, 2))
        return logits


@pytest.mark.parametrize("bgr", [False, True])
def test_a_plain_file_with_channels_last_takes_the_colours_in_the_order_told(
    bgr: bool, tmp_path: Path, labels: Path
) -> None:
    path = foreign.export(
        _ChannelsLast(), tmp_path / "plain.onnx", (torch.rand(1, 24, 32, 3),), ["x"], ["y"], {"x": {0: "n"}}
    )
    told = Told(labels=labels, mean="0.1,0.2,0.3", std="0.2,0.3,0.4", resize=ResizeMode.STRETCH, bgr=bgr)
    folder = adopt(path, told)
    images = photos(folder)
    assert images.shape[1:] == (24, 32, 3)
    ordered = images[..., ::-1] if bgr else images
    pixels = ((ordered / 255 - [0.1, 0.2, 0.3]) / [0.2, 0.3, 0.4]).astype(np.float32)
    (logits,) = original(path, pixels)
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


def test_a_plain_grey_classifier_is_adopted_with_one_mean(tmp_path: Path, labels: Path) -> None:
    path = foreign.export(
        foreign.Classifier(3, channels=1), tmp_path / "grey.onnx", (torch.rand(1, 1, 28, 28),), ["x"], ["y"]
    )
    folder = adopt(path, Told(labels=labels, mean="0.1307", std="0.3081", resize=ResizeMode.STRETCH))
    assert manifest_file.read(folder).input.colour == pb.COLOUR_GREY


@pytest.mark.parametrize(("opset", "becomes"), [(9, 13), (11, 13), (13, 13), (17, 17)])
def test_the_operator_set_is_raised_only_where_it_must_be(
    opset: int, becomes: int, tmp_path: Path, plain: Told
) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "old.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"], opset=opset
    )
    folder = adopt(path, plain)
    assert manifest_file.read(folder).opset == becomes
    model = onnx.load(folder / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [becomes]


def test_a_file_of_the_dynamo_exporter_is_freed_of_its_batch(tmp_path: Path, plain: Told) -> None:
    path = tmp_path / "dynamo.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            foreign.Classifier(3).eval(), (torch.rand(1, 3, 32, 32),), dynamo=True, verbose=False
        )
    assert program is not None
    program.save(str(path))
    folder = adopt(path, plain)
    images = photos(folder)
    (logits,) = original(path, levels(images))
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(answers(folder, images)["probabilities"], expected, atol=1e-5)


class _Enlarged(nn.Module):
    """A segmenter that scales its logits itself, to a size that is constant once it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Segmenter(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.network(images), size=images.shape[-2:], mode="bilinear")


def test_a_segmenter_that_scales_to_a_fixed_batch_is_freed(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(
        _Enlarged(), tmp_path / "torchvision.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["out"]
    )
    folder = adopt(path, plain)
    images = photos(folder)
    (logits,) = original(path, levels(images))
    assert np.mean(answers(folder, images)["class_map"] != logits.argmax(axis=1)) < 1e-3


@pytest.mark.parametrize(("name", "background"), [("background", 1), ("__background__", 1), ("sky", -1)])
def test_the_background_is_found_by_either_name(
    name: str, background: int, tmp_path: Path, plain: Told, labels: Path
) -> None:
    labels.write_text(f"cat\n{name}\nmug\n")
    example = (torch.rand(1, 3, 32, 32),)
    path = foreign.export(foreign.Segmenter(3), tmp_path / "map.onnx", example, ["x"], ["out"])
    assert manifest_file.read(adopt(path, plain)).segment.background_class_id == background


class _Mixing(nn.Module):
    """Turns the batch over into the features, which only works for the batch that it was exported for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = foreign.Classifier(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.network.layers[:4](images)
        logits: torch.Tensor = self.network.layers[4](features.view(2, 4).t().reshape(1, 8))
        return logits


def test_a_file_that_cannot_be_freed_of_its_batch_is_refused_with_advice(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(_Mixing(), tmp_path / "mixing.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"])
    with pytest.raises(
        ExportError, match="for several images at once than for one: export it again with a dyn"
    ) as raised:
        adopt(path, plain)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "models").exists()


def test_a_wrapped_graph_that_answers_something_else_is_never_written(
    tmp_path: Path, plain: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "a.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    honest = Probabilities.append

    def without_softmax(head: Probabilities, model: onnx.ModelProto, prefix: str, half: bool) -> None:
        honest(replace(head, activation=Activation.NONE), model, prefix, half)

    monkeypatch.setattr(Probabilities, "append", without_softmax)
    with pytest.raises(ParityError, match="`probabilities` differs from the original"):
        adopt(path, plain)
    assert not (tmp_path / "models").exists()


def test_a_mistake_of_the_comparison_is_not_told_as_one_of_the_file(
    tmp_path: Path, plain: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "a.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"]
    )
    honest = parity.compare

    def mistaken(*arguments: Any) -> list[pb.OutputParity]:
        (*_, sizes, _tolerances) = arguments
        if len(sizes) > 1:
            raise KeyError("probabilities")
        return honest(*arguments)

    monkeypatch.setattr(parity, "compare", mistaken)
    with pytest.raises(KeyError, match="probabilities"):
        adopt(path, plain)


class _FirstOnly(foreign.Classifier):
    """Looks at the first image alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images[:1])


def test_a_file_that_answers_the_first_image_only_is_refused(tmp_path: Path, plain: Told) -> None:
    example = (torch.rand(2, 3, 32, 32),)
    path = foreign.export(_FirstOnly(3), tmp_path / "a.onnx", example, ["x"], ["y"], {"x": {0: "n"}})
    with pytest.raises(ExportError, match="for several images at once than for one: export it again"):
        adopt(path, plain)


def quantised(path: Path, gain: float) -> Path:
    """What ONNX Runtime's `quantize_dynamic` makes of a classifier whose logits have this gain."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3))
    network[2].weight.data *= gain
    plain = path.with_name("plain.onnx")
    foreign.export(network, plain, (torch.rand(1, 3, 32, 32),), ["x"], ["y"], {"x": {0: "n"}})
    # Seven bits, as ONNX Runtime advises for processors without VNNI, on which sums of eight saturate.
    quantize_dynamic(plain, path, reduce_range=True)
    return path


def test_a_dynamically_quantised_file_is_of_8_bits(tmp_path: Path, plain: Told) -> None:
    path = quantised(tmp_path / "quantised.onnx", 0.01)
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(path).graph.node}
    assert manifest_file.read(adopt(path, plain)).precision == pb.PRECISION_INT8


def test_a_file_that_quantises_a_whole_batch_by_its_range_is_refused(tmp_path: Path, plain: Told) -> None:
    with pytest.raises(ExportError, match="in the whole batch, so quantise it statically"):
        adopt(quantised(tmp_path / "quantised.onnx", 10), plain)


def test_a_file_is_adopted_whose_names_are_those_of_the_contract(tmp_path: Path, plain: Told) -> None:
    path = foreign.export(
        foreign.Classifier(3), tmp_path / "a.onnx", (torch.rand(1, 3, 32, 32),), ["images"], ["probabilities"]
    )
    adopt(path, plain)
