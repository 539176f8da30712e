"""What ONNX Runtime is asked of, and what a session makes of its answers."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from structlog.testing import capture_logs
from tests import colour_bundles, odd_bundles
from tests.colour_bundles import SIDE
from tests.unit.server.sessions import COLOURS, ON_CPU, ONE_THREAD, opened

from retinue_server.bundle import manifest as manifests
from retinue_server.errors import BundleError
from retinue_server.feeds import Feeds
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.session import Machine, Session, explain


def with_cache(folder: Path) -> Machine:
    return Machine(ON_CPU, ONE_THREAD, ModelCache(folder), ThreadPools(2))


def test_a_classifier_gives_probabilities(tmp_path: Path) -> None:
    session = opened(colour_bundles.classifier(tmp_path))
    assert session.outputs == ("probabilities",)
    probabilities = session.run(COLOURS, {})["probabilities"]
    np.testing.assert_allclose(probabilities, np.eye(3), atol=1e-6)


def test_a_detector_gives_boxes_scores_and_classes_in_this_order(tmp_path: Path) -> None:
    session = opened(colour_bundles.detector(tmp_path))
    assert session.outputs == ("boxes", "scores", "classes")
    boxes, scores, classes = session.run(COLOURS, {}).values()
    assert (boxes.shape, scores.shape, classes.shape) == ((3, 3, 4), (3, 3), (3, 3))
    assert classes[:, 0].tolist() == [0, 1, 2]
    assert scores[:, 0].tolist() == [1, 1, 1]


def test_a_segmenter_gives_class_maps(tmp_path: Path) -> None:
    class_map = opened(colour_bundles.segmenter(tmp_path)).run(COLOURS, {})["class_map"]
    assert class_map.dtype == np.uint8
    assert class_map[:, 0, 0].tolist() == [0, 1, 2]
    assert class_map.shape == (3, SIDE, SIDE)


def test_a_graph_that_takes_more_than_images_gives_more_only_when_asked(tmp_path: Path) -> None:
    session = opened(colour_bundles.region_detector(tmp_path))
    whole = [0, 0, SIDE, SIDE]
    feeds = {
        "score_threshold": np.array([0.5, 1.0, 0.5], np.float32),
        "iou_threshold": np.array([0.5], np.float32),
        "regions": np.array([[whole, [0] * 4, [0] * 4], [whole, whole, [0] * 4], [[0] * 4] * 3], np.float32),
    }
    found = session.run(COLOURS, feeds)
    assert list(found) == ["boxes", "scores", "classes", "keypoints"]
    assert (found["scores"] > 0).sum(axis=1).tolist() == [1, 1, 0]
    assert found["classes"][:2, 0].tolist() == [0, 1]
    assert found["keypoints"][0, 0].tolist() == [[SIDE / 2, SIDE / 2, 1]]
    assert session.run(COLOURS, feeds, ["masks"])["masks"].shape == (3, 3, 8, 8)
    session.check_answers(COLOURS, feeds)


def test_a_heatmap_is_computed_only_when_asked_for(tmp_path: Path) -> None:
    bundle = colour_bundles.locator(tmp_path)
    session = opened(bundle, machine=with_cache(tmp_path / "cache"))
    plain = opened(colour_bundles.classifier(tmp_path)).run(COLOURS, {})["probabilities"]
    alone, both = session.run(COLOURS, {}), session.run(COLOURS, {}, ["heatmap"])
    assert list(alone) == ["probabilities"]
    assert np.array_equal(alone["probabilities"], plain)
    assert np.array_equal(both["probabilities"], plain)
    np.testing.assert_allclose(both["heatmap"], 170)
    session.check_answers(COLOURS, {})
    (folder,) = (tmp_path / "cache").glob("*/optimised")
    usual, whole = (onnx.load(folder / name).graph for name in ("model.onnx", "extras.onnx"))
    assert [output.name for output in usual.output] == ["probabilities"]
    assert len(usual.node) < len(whole.node)
    colour_bundles.rewrite_manifest(bundle, classify={"heatmap_height": SIDE, "heatmap_width": 7})
    with pytest.raises(BundleError, match=r"'heatmap' has 8 .* but field `classify.heatmap_width` says 7"):
        opened(bundle)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_regions", 0, "the graph takes 'regions', but by the manifest it takes 'images'"),
        ("max_regions", 2, "has 3 in dimension 1, but field `detect.max_regions` says 2"),
        ("adjustable_thresholds", False, "the graph takes 'score_threshold', 'iou_threshold', but"),
        ("mask_height", 28, "output 'masks' has 8 in dimension 2, but field `detect.mask_height` says 28"),
        ("keypoint_names", ["nose", "ear"], "has 1 in dimension 2, but field `detect.keypoint_names` says 2"),
    ],
)
def test_a_manifest_that_says_something_else_of_the_graph_is_refused(
    field: str, value: Any, message: str, tmp_path: Path
) -> None:
    bundle = colour_bundles.region_detector(tmp_path)
    options = json.loads((bundle / "manifest.json").read_text())["detect"]
    colour_bundles.rewrite_manifest(bundle, detect=options | {field: value})
    with pytest.raises(BundleError, match=re.escape(message)):
        opened(bundle)


def test_an_input_that_the_manifest_promises_must_be_there(tmp_path: Path) -> None:
    bundle = colour_bundles.detector(tmp_path)
    options = json.loads((bundle / "manifest.json").read_text())["detect"]
    colour_bundles.rewrite_manifest(bundle, detect=options | {"adjustable_thresholds": True})
    with pytest.raises(BundleError, match="input 'score_threshold' is missing; the graph has images"):
        opened(bundle)


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_the_batch_is_what_it_is_given(size: int, tmp_path: Path) -> None:
    images = np.resize(COLOURS, (size, SIDE, SIDE, 3))
    assert len(opened(colour_bundles.classifier(tmp_path)).run(images, {})["probabilities"]) == size


def test_giving_memory_back_changes_no_answer(tmp_path: Path) -> None:
    session = opened(colour_bundles.classifier(tmp_path))
    session.shrink_memory(COLOURS[:1], {})
    np.testing.assert_allclose(session.run(COLOURS, {})["probabilities"], np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        colour_bundles.classifier,
        colour_bundles.locator,
        colour_bundles.detector,
        colour_bundles.region_detector,
        colour_bundles.segmenter,
        # ONNX Runtime ends the process where it is given packed weights as it writes them for this one.
        odd_bundles.wide_classifier,
    ],
)
def test_an_optimised_graph_answers_the_same_on_one_core_and_on_all(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    bundle = make(tmp_path)
    plain = opened(bundle)
    feeds = Feeds(manifests.read(bundle)).typical(len(COLOURS))
    expected = plain.run(COLOURS, feeds, plain.extra_outputs)
    assert not plain.can_run_alone
    for _ in range(2):
        kept = opened(bundle, machine=with_cache(tmp_path / "cache"))
        assert kept.can_run_alone
        for alone in (False, True):
            answered = kept.run(COLOURS, feeds, kept.extra_outputs, alone=alone)
            assert all(np.array_equal(expected[name], answered[name]) for name in expected)
    assert list((tmp_path / "cache").glob("*/optimised/model.onnx"))


def test_an_optimised_graph_that_is_damaged_is_made_anew_or_done_without(tmp_path: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path)
    opened(bundle, machine=with_cache(tmp_path / "cache"))
    (graph,) = (tmp_path / "cache").glob("*/optimised/model.onnx")
    graph.write_bytes(b"damaged")
    with capture_logs() as events:
        session = opened(bundle, machine=with_cache(tmp_path / "cache"))
    assert [event["event"] for event in events] == ["model_not_optimised"]
    np.testing.assert_allclose(session.run(COLOURS, {}, alone=True)["probabilities"], np.eye(3), atol=1e-6)
    assert opened(bundle, machine=with_cache(tmp_path / "cache")).can_run_alone


def threads_of_this_process() -> set[int]:
    return {thread.id for thread in psutil.Process().threads()}


@pytest.mark.parametrize("kept", [False, True], ids=["as it is", "optimised"])
def test_a_copy_is_read_in_place_of_the_graph_and_not_needed_any_more_afterwards(
    kept: bool, tmp_path: Path
) -> None:
    bundle = colour_bundles.classifier(tmp_path / "models")
    copy = (bundle / "model.onnx").rename(tmp_path / "copy")
    machine = with_cache(tmp_path / "cache") if kept else Machine(ON_CPU, ONE_THREAD)
    session = Session(bundle / "model.onnx", manifests.read(bundle), machine, copy)
    assert session.can_run_alone is kept
    copy.unlink()
    for alone in (False, True):
        np.testing.assert_allclose(
            session.run(COLOURS, {}, alone=alone)["probabilities"], np.eye(3), atol=1e-6
        )


def test_a_session_that_stays_on_one_instance_takes_no_threads(tmp_path: Path) -> None:
    session = opened(colour_bundles.classifier(tmp_path), machine=with_cache(tmp_path / "cache"))
    before = threads_of_this_process()
    session.plan_lone_runs(on_all_cores=True)
    # Those of tests before may end meanwhile.
    new = threads_of_this_process() - before
    assert len(new) == 1
    session.plan_lone_runs(on_all_cores=False)
    assert not session.can_run_alone
    np.testing.assert_allclose(session.run(COLOURS, {}, alone=True)["probabilities"], np.eye(3), atol=1e-6)
    assert not threads_of_this_process() & new


def test_a_run_that_is_stopped_ends_early_and_the_next_one_is_whole(tmp_path: Path) -> None:
    session = opened(odd_bundles.slow_classifier(tmp_path))
    # White images take a second.
    white = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
    with pytest.raises(Exception, match="terminate flag"):
        session.run(white, {}, when_stopped=lambda stop: threading.Timer(0.05, stop).start())
    assert len(session.run(COLOURS, {})["probabilities"]) == 3


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /m/a b/1/model.onnx failed:"
            "Protobuf parsing failed.",
            "Protobuf parsing failed",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. "
            "Name:'x' Status Message: indices element out of data bounds",
            "indices element out of data bounds",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. "
            "Name:'' Status Message: /src/core/reshape_helper.h:84 onnxruntime::ReshapeHelper::ReshapeHelper(const "
            "Shape&, bool) size != 0 was false. The input tensor cannot be reshaped.\nstack",
            "The input tensor cannot be reshaped",
        ),
        ("something else\nand more", "something else"),
        ("", "ValueError"),
    ],
)
def test_what_onnx_runtime_says_is_cut_to_what_matters(said: str, explained: str) -> None:
    assert explain(ValueError(said)) == explained
