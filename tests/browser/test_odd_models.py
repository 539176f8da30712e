"""Models and images that are not the usual: masks of objects, pipelines, tensors, much of everything."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Route, expect
from tests import colour_bundles, odd_bundles, pictures, pipelines, plain_models
from tests.browser.conftest import Tab
from tests.browser.test_try import PAINTED
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess, running_server

MIB = 1024 * 1024


def outlining_detector(models: Path) -> None:
    """The detector of colours, whose objects have their left half as mask, and the middle of the box as keypoint."""

    def outline(model: onnx.ModelProto) -> None:
        half = np.repeat([[1, 0]], 8, axis=0).repeat(4, axis=1).astype(np.float32)
        side = colour_bundles.SIDE
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(half, "left_half"),
                numpy_helper.from_array(np.array([8, 8]), "mask_size"),
                numpy_helper.from_array(np.array([1, 3]), "point_size"),
                numpy_helper.from_array(np.array([[side / 4, side / 2, 1]], np.float32), "middle"),
            ]
        )
        for name, sizes in (("masks", "mask_size"), ("keypoints", "point_size")):
            source = {"masks": "left_half", "keypoints": "middle"}[name]
            model.graph.node.extend(
                [
                    helper.make_node("Concat", ["rows_and_classes", sizes], [f"{name}_shape"], axis=0),
                    helper.make_node("Expand", [source, f"{name}_shape"], [name]),
                ]
            )
        model.graph.output.extend(
            [
                helper.make_tensor_value_info("masks", TensorProto.FLOAT, ["N", 3, 8, 8]),
                helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, ["N", 3, 1, 3]),
            ]
        )

    bundle = colour_bundles.detector(models, "outliner")
    options = {"max_detections": 3, "nms_iou_threshold": 0.5, "default_score_threshold": 0.5}
    options |= {"mask_height": 8, "mask_width": 8, "keypoint_names": ["middle"]}
    colour_bundles.rewrite_manifest(bundle, detect=options)
    odd_bundles.edit_graph(bundle, outline)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("odd")
    outlining_detector(models)
    colour_bundles.classifier(models)
    colour_bundles.region_detector(models)
    colour_bundles.segmenter(models)
    plain_models.adder(models)
    pipelines.declare(models, "both", "TASK_DETECT", "outliner", "colour-classifier")
    with running_server(models, "--max-request-bytes", "1MiB") as server:
        yield server


@pytest.fixture
def odd_tab(open_tab: Callable[..., Tab], odd: ServerProcess) -> Tab:
    return open_tab(odd.http_url)


def give(tab: Tab, folder: Path, content: bytes, name: str = "picture.png") -> None:
    (folder / name).write_bytes(content)
    tab.give(folder / name)


def test_masks_and_keypoints_of_objects_are_drawn(odd_tab: Tab, tmp_path: Path) -> None:
    page = odd_tab.open("#/try/outliner")
    give(odd_tab, tmp_path, pictures.png((250, 20, 10), 400, 300))
    expect(page.locator(".result .status")).to_contain_text("1 object")
    # The left half of the box, which is the image's left half.
    assert page.evaluate(PAINTED) == pytest.approx(0.25, abs=0.03)
    expect(page.locator(".point")).to_have_count(1)
    frame, point = page.locator(".frame").bounding_box(), page.locator(".point").bounding_box()
    assert frame is not None
    assert point is not None
    middle = (point["x"] + point["width"] / 2 - frame["x"], point["y"] + point["height"] / 2 - frame["y"])
    assert middle == pytest.approx((frame["width"] / 4, frame["height"] / 2), abs=3)
    page.get_by_label("Least score").fill("0")
    expect(page.locator(".box")).to_have_count(3)
    page.get_by_label("Masks").uncheck()
    wait_until(lambda: page.evaluate(PAINTED) == 0, "the masks to go")


def test_where_all_masks_are_too_large_those_of_the_models_own_threshold_are_asked_for(
    odd_tab: Tab, tmp_path: Path
) -> None:
    page = odd_tab.open("#/try/outliner")
    slider, status = page.get_by_label("Least score"), page.locator(".result .status")
    give(odd_tab, tmp_path, pictures.png((250, 20, 10), 400, 300))
    expect(status).to_contain_text("1 object")
    slider.fill("0")
    expect(status).to_contain_text("3 objects with a score of 0.0 %")
    # As the server says of an image of 100 million pixels, which takes it a while.
    told = json.dumps({"error": "the masks cover too many pixels.", "reason": "MASKS_TOO_LARGE"})
    asks_for_all = re.compile(r":detect\?score_threshold=0&")
    page.route(
        asks_for_all, lambda route: route.fulfill(status=400, body=told, content_type="application/json")
    )
    give(odd_tab, tmp_path, pictures.png((250, 20, 10), 40, 30), "large.png")
    expect(status).to_contain_text("1 object with a score of 50 % or more.")
    expect(slider).to_have_attribute("min", "0.5")
    expect(page.get_by_label("Code", exact=True)).to_contain_text("score_threshold=0.5")
    # The next image may have all of its masks.
    page.unroute(asks_for_all)
    give(odd_tab, tmp_path, pictures.png((250, 20, 10), 400, 300), "small.png")
    expect(status).to_contain_text("answered")
    expect(slider).to_have_attribute("min", "0")
    slider.fill("0")
    expect(page.locator(".box")).to_have_count(3)


def test_the_slider_reaches_both_ends_whatever_the_least_score_is(odd_tab: Tab) -> None:
    def with_an_odd_least(route: Route) -> None:
        told = route.fetch().json()
        for model in told["models"]:
            if "detect" in model["manifest"]:
                model["manifest"]["detect"]["min_score"] = 0.105
        route.fulfill(json=told)

    odd_tab.page.route("**/v1/models", with_an_odd_least)
    page = odd_tab.open("#/try/outliner")
    slider, code = page.get_by_label("Least score"), page.get_by_label("Code", exact=True)
    slider.press("End")
    expect(code).to_contain_text("score_threshold=1,")
    slider.press("Home")
    expect(code).to_contain_text("score_threshold=0.105,")


def test_a_pipeline_tells_the_classes_of_its_objects(odd_tab: Tab, tmp_path: Path) -> None:
    page = odd_tab.open("#/try/both")
    give(odd_tab, tmp_path, pictures.png((250, 20, 10), 40, 30))
    expect(page.get_by_role("columnheader", name="Classifier")).to_be_visible()
    page.get_by_role("link", name="About this model").click()
    expect(page.get_by_role("link", name="colour-classifier")).to_be_visible()


def test_every_pixel_has_a_class_where_there_is_no_background(odd_tab: Tab, tmp_path: Path) -> None:
    page = odd_tab.open("#/try/colour-segmenter")
    give(odd_tab, tmp_path, pictures.encode(pictures.quarters()[0]))
    expect(page.locator(".areas li")).to_have_count(3)
    assert page.evaluate(PAINTED) == 1


def test_a_file_that_the_browser_cannot_show_has_its_answer_all_the_same(
    odd_tab: Tab, tmp_path: Path
) -> None:
    page = odd_tab.open("#/try/outliner")
    give(odd_tab, tmp_path, pictures.encode(pictures.solid((255, 0, 0), 300, 100), "TIFF"), "picture.tiff")
    expect(page.locator(".result .status")).to_contain_text("1 object")
    expect(page.get_by_text("The browser cannot show this file")).to_be_visible()
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    assert frame["width"] / frame["height"] == pytest.approx(3, rel=0.02)


def test_a_file_that_is_too_large_is_what_the_server_says(odd_tab: Tab, tmp_path: Path) -> None:
    page = odd_tab.open("#/try/colour-classifier")
    give(odd_tab, tmp_path, b"\xff" * 20 * MIB, "large.jpg")
    expect(page.get_by_role("alert")).to_contain_text("bytes")


def test_a_model_that_wants_what_the_page_has_not_says_so(odd_tab: Tab, tmp_path: Path) -> None:
    page = odd_tab.open("#/try/colour-regions")
    give(odd_tab, tmp_path, pictures.png(pictures.RED))
    expect(page.get_by_role("alert")).to_contain_text("region")


def test_a_model_of_tensors_has_a_page_and_is_not_offered_for_images(odd_tab: Tab) -> None:
    page = odd_tab.open("#/models")
    page.get_by_role("link", name="adder").click()
    expect(page.get_by_text("tensors")).to_be_visible()
    expect(page.get_by_role("link", name="Try it")).to_have_count(0)
    page.get_by_role("link", name="Try", exact=True).click()
    options = page.get_by_role("combobox", name="Model", exact=True)
    expect(options.locator("option", has_text="adder")).to_have_count(0)


def test_the_page_is_the_same_in_front_of_several_processes(
    open_tab: Callable[..., Tab], colour_server: ServerProcess, tmp_path: Path
) -> None:
    tab = open_tab(colour_server.http_url)
    page = tab.open("#/try/colour-classifier")
    give(tab, tmp_path, pictures.png(pictures.RED))
    expect(page.locator(".result .status")).to_contain_text("red")
    page.get_by_role("link", name="Live").click()
    expect(page.locator(".tile").first.locator("dd")).to_have_text("0 /s")
    memory = page.get_by_role("region", name="Memory by model")
    expect(memory.get_by_role("row", name="colour-classifier")).to_be_visible()
    metrics = MetricsPage(colour_server.http_url)
    resident = ("process_resident_memory_bytes", "retinue_worker_resident_memory_bytes")
    expected = sum(metrics.total(name) for name in resident) / MIB
    tile = page.locator(".tile", has_text="Memory").locator("dd")
    assert float(tile.inner_text().split()[0]) == pytest.approx(expected, rel=0.1)
