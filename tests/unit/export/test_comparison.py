"""Two bundles on the same images: what agrees, what does not, and how it is said."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests import colour_bundles, odd_bundles, pictures
from tests.unit.export.test_cli import run
from tests.unit.export.test_inspection import HOSTILE, Tags

from retinue_export.comparison import compare, labels, report, side
from retinue_export.comparison.compare import Compared
from retinue_export.comparison.pictures import from_folder
from retinue_export.errors import ExportError

TASKS = ("classifier", "detector", "segmenter")
COLOURS = {"red": (230, 60, 20), "green": (60, 220, 10), "blue": (20, 60, 240)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a picture of each colour, one of them in a folder of its own, and one of quarters."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, colour in COLOURS.items():
        place = folder / ("more" if name == "blue" else ".") / f"{name}.png"
        place.write_bytes(pictures.png(colour))
    pictures.quarters(32, 32)[0].save(folder / "quarters.PNG")
    return folder


def compared(a: Path, b: Path, photos: Path) -> Compared:
    return compare.compare(
        side.open_bundle(a), side.open_bundle(b), from_folder(photos), lambda _done, _total: None
    )


def figures(found: Compared) -> dict[str, Any]:
    return {figure.name: figure.value for figure in found.comparison.figures()}


def permuted(bundle: Path, order: Sequence[int], output: str) -> Path:
    """Gives the classes other ids, in the labels and in the answers: the new class i was order[i]."""
    become = np.argsort(order)

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["before" if name == output else name for name in node.output]
        if output == "probabilities":
            graph.initializer.append(numpy_helper.from_array(np.array(order), "order"))
            graph.node.append(helper.make_node("Gather", ["before", "order"], [output], axis=1))
            return
        kind = TensorProto.UINT8 if output == "class_map" else TensorProto.INT32
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        graph.initializer.append(numpy_helper.from_array(become.astype(dtype), "become"))
        graph.node.append(helper.make_node("Cast", ["before"], ["ids"], to=TensorProto.INT64))
        graph.node.append(helper.make_node("Gather", ["become", "ids"], [output], axis=0))

    odd_bundles.edit_graph(bundle, edit)
    colour_bundles.rewrite_manifest(bundle, labels=[colour_bundles.LABELS[number] for number in order])
    return bundle


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_agrees_with_itself(task: str, photos: Path, tmp_path: Path) -> None:
    bundle = getattr(colour_bundles, task)(tmp_path)
    found = compared(bundle, bundle, photos)
    assert found.comparison.agreement == 1
    assert found.comparison.differences() == []
    assert found.comparison.images == 4
    assert not found.skipped


@pytest.mark.parametrize(
    ("task", "output"), [("classifier", "probabilities"), ("detector", "classes"), ("segmenter", "class_map")]
)
def test_classes_are_compared_by_name_and_not_by_number(
    task: str, output: str, photos: Path, tmp_path: Path
) -> None:
    made = getattr(colour_bundles, task)
    plain = made(tmp_path)
    turned = permuted(made(tmp_path, "turned"), (2, 0, 1), output)
    found = compared(plain, turned, photos)
    assert found.comparison.agreement == 1
    if task == "classifier":
        assert figures(found)["max_difference"] == 0
    # The same answers under the old labels differ.
    colour_bundles.rewrite_manifest(turned, labels=list(colour_bundles.LABELS))
    assert compared(plain, turned, photos).comparison.agreement < 0.6


def test_classifiers_say_where_they_differ_surest_first(photos: Path, tmp_path: Path) -> None:
    plain = colour_bundles.classifier(tmp_path)
    swapped = permuted(colour_bundles.classifier(tmp_path, "swapped"), (1, 0, 2), "probabilities")
    colour_bundles.rewrite_manifest(swapped, labels=list(colour_bundles.LABELS))
    found = compared(plain, swapped, photos)
    red, green = found.comparison.differences()
    assert {red.image, green.image} == {"red.png", "green.png"}
    assert found.comparison.agreement == 0.5
    by_image = {one.image: one for one in (red, green)}
    assert (by_image["red.png"].a.label, by_image["red.png"].b.label) == ("red", "green")
    assert min(red.a.score, red.b.score) >= min(green.a.score, green.b.score)
    assert figures(found)["top5_overlap"] == 1
    assert figures(found)["max_difference"] == pytest.approx(1, abs=1e-3)


def test_detectors_are_matched_in_the_originals_pixels(photos: Path, tmp_path: Path) -> None:
    """The other bundle fits images in with bars around: the same boxes cover other parts of the image."""
    plain = colour_bundles.detector(tmp_path)
    fitted = colour_bundles.detector(tmp_path, "fitted")
    manifest = json.loads((fitted / "manifest.json").read_text())
    manifest["input"]["resize"] = {"mode": "RESIZE_MODE_LETTERBOX", "interpolation": "INTERPOLATION_BILINEAR"}
    manifest["detect"]["default_score_threshold"] = 0.1
    colour_bundles.rewrite_manifest(plain, detect=manifest["detect"])
    (fitted / "manifest.json").write_text(json.dumps(manifest))
    found = compared(plain, fitted, photos)
    measured = figures(found)
    # Both cover the left half: the bars lie above and below, so that only scores differ.
    assert measured["mean_iou"] == pytest.approx(1)
    assert measured["in_both"] > 0
    assert measured["mean_score_difference"] > 0.1
    assert measured["nearly_equal"] < 1


def test_detectors_say_what_only_one_finds(photos: Path, tmp_path: Path) -> None:
    plain = colour_bundles.detector(tmp_path)
    narrow = colour_bundles.detector(tmp_path, "narrow")

    def move(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "box":
                tensor.CopyFrom(numpy_helper.from_array(np.array([5, 0, 8, 8], np.float32), "box"))

    odd_bundles.edit_graph(narrow, move)
    found = compared(plain, narrow, photos)
    measured = figures(found)
    assert measured["matched"] == 0
    assert measured["mean_iou"] is None
    assert measured["only_in_a"] == measured["only_in_b"] == 4
    first = found.comparison.differences()[0]
    # A pure blue covers half of the picture of quarters: exactly the threshold.
    assert (first.only_in_a[0].label, first.only_in_b[0].label) == ("blue", "blue")
    assert first.only_in_a[0].box == pytest.approx((0, 0, 10, 10))
    assert sum(entry["only_in_a"] for entry in found.comparison.classes()) == 4


def test_segmenters_are_compared_pixel_by_pixel(photos: Path, tmp_path: Path) -> None:
    plain = colour_bundles.segmenter(tmp_path)
    swapped = permuted(colour_bundles.segmenter(tmp_path, "swapped"), (1, 0, 2), "class_map")
    colour_bundles.rewrite_manifest(swapped, labels=list(colour_bundles.LABELS))
    found = compared(plain, swapped, photos)
    # Red and green pictures differ wholly, blue not at all, quarters by half: blue covers its lower half.
    assert found.comparison.agreement == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    worst, other, quarters = found.comparison.differences()
    assert {worst.image, other.image} == {"red.png", "green.png"}
    assert quarters.image == "quarters.PNG"
    assert {(one.a, one.b, one.share) for one in quarters.confusions} == {
        ("red", "green", 0.25),
        ("green", "red", 0.25),
    }
    ious = {entry["label"]: entry["iou"] for entry in found.comparison.classes()}
    assert ious == {"red": 0, "green": 0, "blue": 1}


def test_names_that_a_list_has_twice_are_told_apart() -> None:
    shared = labels.SharedLabels(["crane", "cat", "crane"], ["crane", "crane", "dog"])
    assert shared.of_a.tolist() == [0, 1, 2]
    assert shared.of_b.tolist() == [0, 2, 3]
    assert (shared.common, shared.only_in_a, shared.only_in_b) == (2, ["cat"], ["dog"])
    assert not shared.are_the_same


def test_probabilities_are_not_compared_where_labels_differ(photos: Path, tmp_path: Path) -> None:
    plain = colour_bundles.classifier(tmp_path)
    other = colour_bundles.classifier(tmp_path, "other")
    colour_bundles.rewrite_manifest(other, labels=["red", "green", "azure"])
    found = compared(plain, other, photos)
    assert figures(found)["max_difference"] is None
    assert found.comparison.agreement == 0.5
    assert report.as_json(found)["labels"] == {"common": 2, "only_in_a": ["blue"], "only_in_b": ["azure"]}


@pytest.mark.parametrize("task", TASKS)
def test_json_has_these_fields(
    task: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = getattr(colour_bundles, task)
    plain, other = made(tmp_path), made(tmp_path, "other")
    colour_bundles.rewrite_manifest(other, labels=["green", "red", "blue"])
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture either")
    code, out, _ = run(capsys, "diff", str(plain), str(other), "--images", str(photos), "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == [
        *("task", "a", "b", "labels", "images", "skipped", "agreement", "figures", "classes", "differences")
    ]
    assert list(found["a"]) == ["bundle", "name", "sha256", "precision", "classes"]
    assert [one["image"] for one in found["skipped"]] == ["broken.jpg"]
    assert found["images"] == 4
    assert found["agreement"] == next(iter(found["figures"].values()))
    assert (
        list(found["differences"][0])
        == {
            "classifier": ["image", "a", "b"],
            "detector": ["image", "in_both", "only_in_a", "only_in_b"],
            "segmenter": ["image", "agreement", "confusions"],
        }[task]
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_page_shows_the_images_that_differ_and_runs_nothing(
    task: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = getattr(colour_bundles, task)
    plain, other = made(tmp_path), made(tmp_path, "other")
    colour_bundles.rewrite_manifest(plain, labels=["red", HOSTILE, "blue"])
    colour_bundles.rewrite_manifest(other, labels=[HOSTILE, "red", "blue"])
    (photos / "<b onclick=x>&.png").write_bytes(pictures.png(COLOURS["red"]))
    (photos / "<i>broken\x1b[2J.png").write_bytes(b"")
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "diff", str(plain), str(other), "--images", str(photos), "--html", str(page))
    assert code == 0
    assert "skipped <i>broken\ufffd[2J.png: The image is empty" in out
    assert "\x1b" not in out + page.read_text()
    shown = Tags(page.read_text())
    assert shown.references
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in shown.references)
    assert not shown.tags & {"script", "b onclick", "iframe", "link", "object"}
    assert not {name for name in shown.attributes if name.startswith("on")}
    assert HOSTILE in shown.text
    assert "<b onclick=x>&.png" in shown.text


def test_a_page_shows_at_most_24_images(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(pictures.png((255, number, 0)))
    plain = colour_bundles.classifier(tmp_path)
    other = colour_bundles.classifier(tmp_path, "other")
    colour_bundles.rewrite_manifest(other, labels=["green", "red", "blue"])
    shown = Tags(report.page(compared(plain, other, folder)))
    assert len(shown.references) == 24
    assert "All images that differ (30)" in shown.text


def test_less_agreement_than_asked_for_ends_with_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = colour_bundles.classifier(tmp_path)
    other = colour_bundles.classifier(tmp_path, "other")
    colour_bundles.rewrite_manifest(other, labels=["green", "red", "blue"])
    arguments = ("diff", str(plain), str(other), "--images", str(photos), "--min-agreement")
    assert run(capsys, *arguments, "0.5")[0] == 0
    code, out, err = run(capsys, *arguments, "0.51")
    assert code == 1
    assert "agree on 0.5000, less than the 0.51" in err
    assert "same top class" in out


def test_photos_lie_upright_for_both(tmp_path: Path) -> None:
    """A picture that EXIF turns is compared, and drawn, as a person sees it."""
    folder = tmp_path / "turned"
    folder.mkdir()
    upright, _ = pictures.quarters(48, 32)
    (folder / "turned.jpg").write_bytes(pictures.turned_file(upright, 6, "JPEG"))
    (picture,) = from_folder(folder)
    drawn = np.asarray(picture.upright()).astype(int)
    assert drawn.shape == (32, 48, 3)
    assert np.abs(drawn - np.asarray(upright).astype(int)).mean() < 12


def bad_input(tmp_path: Path) -> dict[str, tuple[Path, Path, Path, str]]:
    """Two bundles, a folder of images, and what is said, by what is wrong."""
    photos = tmp_path / "photos"
    plain = colour_bundles.classifier(tmp_path)
    stranger = colour_bundles.classifier(tmp_path, "stranger")
    colour_bundles.rewrite_manifest(stranger, labels=["one", "two", "three"])
    cut = odd_bundles.replace_model(colour_bundles.classifier(tmp_path, "cut"), b"\x08\x0acut short")
    wrong = colour_bundles.classifier(tmp_path, "wrong")
    (wrong / "model.onnx").write_bytes(b"changed")
    silent = colour_bundles.classifier(tmp_path, "silent")
    colour_bundles.rewrite_manifest(silent, task="TASK_SEGMENT", segment={"map_height": 8, "map_width": 8})
    more = colour_bundles.classifier(tmp_path, "more")
    colour_bundles.rewrite_manifest(more, labels=["red", "green", "blue", "grey"])
    broken = odd_bundles.scaled(colour_bundles.classifier(tmp_path, "broken"), "probabilities", 3.0)
    regions = colour_bundles.detector(tmp_path, "regions")
    options = json.loads((regions / "manifest.json").read_text())["detect"]
    colour_bundles.rewrite_manifest(regions, detect={**options, "max_regions": 4})
    empty, unreadable = tmp_path / "empty", tmp_path / "unreadable"
    for folder in (empty, unreadable):
        folder.mkdir()
    (unreadable / "a.png").write_bytes(b"nothing")
    return {
        "another task": (plain, colour_bundles.detector(tmp_path), photos, "only bundles of one task"),
        "no common label": (plain, stranger, photos, "no label in common"),
        "a graph that was cut short": (plain, cut, photos, "cannot be opened"),
        "another hash": (plain, wrong, photos, "SHA-256"),
        "a missing output": (silent, silent, photos, "has no output `class_map`"),
        "too many labels": (plain, more, photos, "3 probabilities for 4 labels"),
        "no probabilities": (plain, broken, photos, "no number in [0, 1]"),
        "regions wanted": (regions, regions, photos, "takes regions"),
        "an empty folder": (plain, plain, empty, "no image in"),
        "no folder": (plain, plain, tmp_path / "nowhere", "There is no folder"),
        "no picture that can be read": (plain, plain, unreadable, "None of the 1 images"),
        "no bundle": (plain, tmp_path / "nowhere", photos, "There is no bundle folder"),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "another task",
            "no common label",
            "a graph that was cut short",
            "another hash",
            "a missing output",
        ),
        *("too many labels", "no probabilities", "regions wanted", "an empty folder", "no folder"),
        *("no picture that can be read", "no bundle"),
    ],
)
def test_bad_input_is_said_in_one_sentence(
    wrong: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, folder, said = bad_input(tmp_path)[wrong]
    code, out, err = run(capsys, "diff", str(a), str(b), "--images", str(folder))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert said in err


def test_without_a_folder_the_sample_photos_are_compared(tmp_path: Path) -> None:
    from retinue_export.comparison import pictures as compared_pictures

    samples = compared_pictures.samples()
    assert len(samples) == 24
    names = {picture.name for picture in samples}
    assert {"chelsea.png", "china.jpg"} <= names
    chelsea = next(picture for picture in samples if picture.name == "chelsea.png")
    assert isinstance(chelsea.upright(), Image.Image)
    assert chelsea.upright().size == (451, 300)


def test_adjustable_detectors_are_asked_with_their_own_thresholds(photos: Path, tmp_path: Path) -> None:
    """Graphs that take thresholds with each batch get the manifest's."""
    bundle = colour_bundles.detector(tmp_path)

    def adjust(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.input.append(helper.make_tensor_value_info("score_threshold", TensorProto.FLOAT, ["N"]))
        graph.input.append(helper.make_tensor_value_info("iou_threshold", TensorProto.FLOAT, [1]))

    odd_bundles.edit_graph(bundle, adjust)
    assert compared(bundle, bundle, photos).comparison.agreement == 1


def test_a_graph_that_fails_is_named(photos: Path, tmp_path: Path) -> None:
    plain = colour_bundles.classifier(tmp_path)
    failing = odd_bundles.failing_classifier(tmp_path)
    (photos / "white.png").write_bytes(pictures.png(pictures.WHITE))
    with pytest.raises(ExportError, match=r"failing-classifier.*cannot be run"):
        compared(plain, failing, photos)
