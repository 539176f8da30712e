"""What `retinue-export adopt` refuses: one sentence, exit code 2, and nothing written."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests import odd_bundles
from tests.unit.export import foreign
from tests.unit.export.adopting import NAMES, adopt, assert_refused, edited
from tests.unit.export.command import run
from torch import nn

from retinue_export.inspection import model_file


def test_what_is_no_onnx_file_is_refused(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.onnx"
    assert_refused(capsys, missing, told, "There is no ONNX file")
    for content in (b"", b"PK\x03\x04 a zip file", b"\x00" * 100):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        assert_refused(capsys, path, told, "is no ONNX file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(
    share: float, classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = classifier.read_bytes()
    classifier.write_bytes(content[: int(len(content) * share)])
    assert_refused(capsys, classifier, told, "plain.onnx is no")


def test_a_file_larger_than_protobuf_can_hold_is_not_read(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)
    assert_refused(capsys, path, told, "more than the 2147483647")


def test_a_custom_operator_is_refused_by_name(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "DeformableConv"
        model.graph.node[0].domain = "my.ops"
        model.opset_import.append(helper.make_opsetid("my.ops", 1))

    assert_refused(capsys, edited(classifier, change), told, "my.ops:DeformableConv", "standard operators")


def test_a_custom_operator_inside_of_a_branch_is_found(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        branch = helper.make_graph(
            [helper.make_node("Odd", [], ["odd"], domain="my.ops")],
            "branch",
            [],
            [helper.make_tensor_value_info("odd", TensorProto.FLOAT, None)],
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(
            helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
        )
        model.opset_import.append(helper.make_opsetid("my.ops", 1))

    assert_refused(capsys, edited(classifier, change), told, "my.ops:Odd")


def test_an_operator_that_the_runtime_does_not_have_is_told_in_its_words(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchThing"
        model.graph.node[0].domain = "com.microsoft"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    assert_refused(capsys, edited(classifier, change), told, "ONNX Runtime cannot load", "NoSuchThing")


class _TwoImages(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left - right).mean((2, 3))


def test_a_graph_of_several_images_is_refused(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images = (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    path = foreign.export(_TwoImages(), tmp_path / "two.onnx", images, ["left", "right"], ["y"])
    assert_refused(
        capsys, path, told, "must have one input", "`left` float [1,3,8,8], `right` float [1,3,8,8]"
    )


def test_images_of_four_channels_are_refused(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.export(
        foreign.Classifier(3, channels=4), tmp_path / "four.onnx", (torch.rand(1, 4, 8, 8),), ["x"], ["y"]
    )
    assert_refused(capsys, path, told, "neither 1 channel (grey) nor 3 (RGB)")


def test_a_wrong_number_of_labels_is_refused(
    tmp_path: Path, classifier: Path, told: list[str], labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels.write_text("cat\ndog\n")
    assert_refused(capsys, classifier, told, "answers 3 classes", "labels.txt names 2")
    yolo = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)
    assert_refused(capsys, yolo, ["--labels", str(labels)], "answers 3 classes", "labels.txt names 2")


@pytest.mark.parametrize(
    "names",
    [
        "{0: 'cat', 2: 'dog'}",
        "__import__('os')",
        "[" * 5000,
        "{}",
        "{1e999: 'cat'}",
        "{0: 'cat', 1: 'dog', 2: '\\ud800'}",
        f"['cat', 'dog', 0x{'f' * 5000}]",
    ],
)
def test_names_in_metadata_that_are_none_must_be_told(
    names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)

    def change(model: onnx.ModelProto) -> None:
        (entry,) = [entry for entry in model.metadata_props if entry.key == "names"]
        entry.value = names

    assert_refused(capsys, edited(path, change), [], "Give --labels FILE")


class _NotANumber(nn.Module):
    """Answers NaN to what is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (0.9 - images).sqrt().mean((2, 3))


def test_an_answer_that_is_no_number_is_refused(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.export(_NotANumber(), tmp_path / "nan.onnx", (torch.rand(1, 3, 8, 8),), ["x"], ["y"])
    assert_refused(capsys, path, told, "answers a photo with NaN in `y`")


def test_logits_that_are_told_to_be_probabilities_are_refused(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, classifier, [*told, "--no-softmax"], "no probabilities", "give --softmax")


def test_a_detector_without_its_sigmoid_is_not_told_to_take_a_softmax(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)

    def change(model: onnx.ModelProto) -> None:
        (sigmoid,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        sigmoid.op_type = "Relu"

    assert_refused(capsys, edited(path, change), [], "no probabilities: export it with its sigmoid")


def test_what_looks_like_probabilities_without_a_softmax_must_be_told(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Shares(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            powers = images.mean((2, 3)).exp()
            return powers / powers.sum(1, keepdim=True)

    path = foreign.export(
        Shares(), tmp_path / "shares.onnx", (torch.rand(1, 3, 8, 8),), ["x"], ["y"], {"x": {0: "n"}}
    )
    assert_refused(capsys, path, told, "--softmax or --no-softmax")
    assert adopt(capsys, path, *told, "--no-softmax")[0] == 0


def test_another_size_than_the_graphs_is_refused(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, classifier, [*told, "--size", "64"], "takes images of 32x32, and --size says 64")


def test_a_graph_that_names_no_channels_may_still_be_told_to_be_grey(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, classifier, [*told, "--grey"], "takes 3 channels, and --grey says one")


def test_an_output_must_be_chosen_where_there_are_several(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Two(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean((2, 3)), images.amax((2, 3))

    path = foreign.export(Two(), tmp_path / "two.onnx", (torch.rand(1, 3, 8, 8),), ["x"], ["mean", "most"])
    assert_refused(capsys, path, told, "--output NAME")
    assert_refused(capsys, path, [*told, "--output", "least"], "no output `least`; it has `mean`, `most`")
    assert adopt(capsys, path, *told, "--output", "most", "--softmax")[0] == 0


def test_a_torchvision_detector_is_sent_to_its_own_export(
    tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Finished(nn.Module):
        """As torchvision's detectors answer: another number of rows for each image."""

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            values = images[0, 0, :, 0]
            kept = torch.nonzero(values > 0.5)[:, 0]
            return images[0, 0, :, :4][kept], (values[kept] * 3).long(), values[kept]

    path = foreign.export(
        Finished(),
        tmp_path / "detector.onnx",
        (torch.rand(1, 3, 8, 8),),
        ["images"],
        ["boxes", "labels", "scores"],
        {"boxes": {0: "detections"}, "labels": {0: "detections"}, "scores": {0: "detections"}},
    )
    assert_refused(capsys, path, told, "one of torchvision's detectors", "retinue-export torchvision")


def test_masks_of_hugging_face_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Panoptic(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean((2, 3)), images[:, :1]

    outputs = ("logits", "pred_masks")
    path = foreign.hugging_face(Panoptic(), tmp_path / "panoptic", NAMES, {"size": 64}, outputs)
    assert_refused(capsys, path, [], "answers masks of its own (`pred_masks`)")


@pytest.mark.parametrize("shift", [0, -1])
def test_a_class_map_with_ids_that_have_no_label_is_refused(
    shift: int, tmp_path: Path, labels: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Decided(nn.Module):
        """Decides itself; -1 would be 255 in a byte."""

        def __init__(self) -> None:
            super().__init__()
            self.network = foreign.Segmenter(3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images).argmax(1) + shift

    path = foreign.export(Decided(), tmp_path / "map.onnx", (torch.rand(1, 3, 32, 32),), ["x"], ["y"])
    if not shift:
        assert adopt(capsys, path, *told)[0] == 0
        shutil.rmtree(tmp_path / "models")
        labels.write_text("cat\ndog\n")
    assert_refused(capsys, path, told, f"classes from {shift} to {2 + shift}", "give --labels")


def test_logits_without_a_row_for_each_query_are_no_detectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Flat(foreign.Detr):
        def forward(self, images: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits, boxes = super().forward(images, mask)
            return logits[:, 0], boxes

    levels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}
    outputs = ("logits", "pred_boxes")
    path = foreign.hugging_face(Flat(4), tmp_path / "flat", NAMES, {"size": 64, **levels}, outputs)
    assert_refused(capsys, path, [], "answers [N,4], not a detector's logits")


def test_metadata_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.ultralytics(foreign.YoloV8(3), tmp_path / "yolo.onnx", NAMES)
    path.write_bytes(path.read_bytes().replace(b"AGPL-3.0", b"AGPL\xff\xff.0"))
    assert_refused(capsys, path, [], "is not UTF-8 text")


def test_notes_for_nobody_may_have_any_encoding(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def note(model: onnx.ModelProto) -> None:
        model.graph.node[0].doc_string = "network.py: caf00"

    path = edited(classifier, note)
    path.write_bytes(path.read_bytes().replace(b"caf00", b"caf\xe9\xff"))
    assert adopt(capsys, path, *told)[0] == 0


def test_a_file_whose_name_is_no_text_is_adopted(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = classifier.rename(classifier.with_name("caf\udce9.onnx"))
    code, _, err = adopt(capsys, path, *told)
    assert (code, err) == (0, "")
    bundle = str(path.parent / "models" / "it")
    assert run(capsys, "verify", bundle, "--adopted", str(path))[0] == 0


def test_a_bundle_that_was_cut_short_is_not_verified_with_the_file(
    classifier: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(capsys, classifier, *told)[0] == 0
    folder = classifier.parent / "models" / "it" / "1"
    odd_bundles.replace_model(folder, (folder / "model.onnx").read_bytes()[:-7])
    code, _, err = run(capsys, "verify", str(folder), "--adopted", str(classifier))
    assert code == 2
    assert "model.onnx is no ONNX file, or was cut short" in err


# Detectors


def test_an_rt_detr_of_ultralytics_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for classes in (2, 3):  # of two classes it has as many columns as finished detections
        names = NAMES[:classes]
        path = foreign.ultralytics(foreign.RtDetr(classes), tmp_path / f"rt-detr-{classes}.onnx", names)
        assert_refused(capsys, path, [], "as Ultralytics exports RT-DETR", "take one of Hugging Face's")


def test_boxes_and_scores_in_the_form_of_an_rt_detr_are_refused_in_a_plain_file(
    tmp_path: Path, labels: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels.write_text("cat\ndog\n")
    path = foreign.export(
        foreign.RtDetr(2), tmp_path / "plain.onnx", (torch.rand(1, 3, 64, 64),), ["x"], ["y"]
    )
    assert_refused(capsys, path, [*told, "--task", "detect"], "as Ultralytics exports RT-DETR")


class _DarkOnBlack(foreign.RtDetr):
    """Answers nothing but zeros to a black image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (images.amax() > 0)


def test_what_a_black_image_does_not_show_of_an_rt_detr_photos_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.ultralytics(_DarkOnBlack(2), tmp_path / "rt-detr.onnx", NAMES[:2])
    assert_refused(capsys, path, [], "where it should name a class")


def test_finished_detections_of_classes_that_have_no_label_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign.ultralytics(foreign.EndToEnd(6), tmp_path / "yolov10.onnx", NAMES[:2])
    assert_refused(capsys, path, [], "The graph answers classes from", "labels for 0 to 1: give --labels")


# Classifiers


def test_a_single_logit_is_refused_because_a_softmax_makes_1_of_it(
    tmp_path: Path, labels: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels.write_text("cat\n")
    network, example = foreign.Classifier(1), (torch.rand(1, 3, 32, 32),)
    logit = foreign.export(network, tmp_path / "logit.onnx", example, ["x"], ["y"])
    for options in ([], ["--softmax"]):
        assert_refused(capsys, logit, [*told, *options], "one logit", "export it with a sigmoid")
    finished = nn.Sequential(network, nn.Sigmoid())
    path = foreign.export(finished, tmp_path / "finished.onnx", example, ["x"], ["y"])
    assert adopt(capsys, path, *told)[0] == 0
