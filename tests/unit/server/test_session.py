import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import psutil
import pytest
from structlog.testing import capture_logs
from tests import colour_bundles, odd_bundles
from tests.colour_bundles import SIDE

from retinue_server.bundle import manifest as manifests
from retinue_server.errors import BundleError, StartupError
from retinue_server.feeds import Feeds
from retinue_server.runtime import session as sessions
from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import CPU, CUDA, TENSORRT, Provider, half_options
from retinue_server.runtime.session import Machine, Session, Threads, explain

ON_CPU = Provider(CPU, "cpu", "", ((CPU, {}),))
ON_GPU = Provider(CUDA, "cuda", "", ((CUDA, {"device_id": "1"}), (CPU, {})), devices=(1,))
ONE_THREAD = Threads(2, 1)
REAL_SESSION = onnxruntime.InferenceSession
COLOURS = np.zeros((3, SIDE, SIDE, 3), np.uint8)
for channel in range(3):
    COLOURS[channel, ..., channel] = 255


def with_cache(folder: Path) -> Machine:
    return Machine(ON_CPU, ONE_THREAD, ModelCache(folder), ThreadPools(2))


def opened(bundle: Path, provider: Provider = ON_CPU, machine: Machine | None = None) -> Session:
    return Session(bundle / "model.onnx", manifests.read(bundle), machine or Machine(provider, ONE_THREAD))


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


class FakeRuntime:
    """Stands for ONNX Runtime on a machine with a GPU; notes what is asked of it."""

    def __init__(self, running: str = CUDA) -> None:
        self.running = running
        self.refuses = ""
        self.created_with: dict[str, Any] = {}
        self.calls: list[tuple[Any, ...]] = []

    def create(
        self,
        path: Path,
        options: onnxruntime.SessionOptions,
        providers: list[Any],
        enable_fallback: bool = True,
    ) -> "FakeRuntime":
        self.created_with = {"path": path, "options": options, "providers": providers}
        assert not enable_fallback
        if self.refuses in providers[0][1]:
            raise RuntimeError("User needs to provide all the dynamic shape inputs")
        return self

    def get_providers(self) -> list[str]:
        return [self.running, CPU]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images", type="tensor(uint8)", shape=["N", SIDE, SIDE, 3])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(name="heatmap", type="tensor(float)", shape=["N", 2, 2]),
            SimpleNamespace(name="classes", type="tensor(int32)", shape=["N", 3]),
            SimpleNamespace(name="scores", type="tensor(float)", shape=["N", 3]),
            SimpleNamespace(name="boxes", type="tensor(float)", shape=["N", 3, 4]),
        ]

    def io_binding(self) -> "FakeBinding":
        self.calls.append(("io_binding",))
        return FakeBinding(self.calls)

    def run_with_iobinding(self, binding: "FakeBinding", options: object) -> None:
        self.calls.append(("run",))


class FakeBinding:
    """Stands for an IOBinding; notes what is asked of it."""

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self._calls = calls
        self._outputs: list[str] = []

    def bind_cpu_input(self, name: str, array: npt.NDArray[Any]) -> None:
        self._calls.append(("bind_cpu_input", name, id(array)))

    def bind_output(self, name: str, device: str) -> None:
        self._calls.append(("bind_output", name, device))
        self._outputs.append(name)

    def get_outputs(self) -> list[SimpleNamespace]:
        self._calls.append(("get_outputs",))
        return [SimpleNamespace(numpy=partial(str, f"{name}' values")) for name in self._outputs]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRuntime]:
    fake = FakeRuntime()
    monkeypatch.setattr(sessions.ort, "InferenceSession", fake.create)
    return fake  # type: ignore[return-value]


def test_on_a_gpu_input_and_outputs_are_bound(runtime: FakeRuntime, tmp_path: Path) -> None:
    session = opened(colour_bundles.detector(tmp_path), ON_GPU)
    assert session.run(COLOURS, {}) == {
        "boxes": "boxes' values",
        "scores": "scores' values",
        "classes": "classes' values",
    }
    # Only the outputs of the contract, and in its order.
    assert runtime.calls == [
        ("io_binding",),
        ("bind_cpu_input", "images", id(COLOURS)),
        ("bind_output", "boxes", "cpu"),
        ("bind_output", "scores", "cpu"),
        ("bind_output", "classes", "cpu"),
        ("run",),
        ("get_outputs",),
    ]


def test_a_session_is_created_with_the_providers_chain_and_threads(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    bundle = colour_bundles.detector(tmp_path)
    Session(bundle / "model.onnx", manifests.read(bundle), Machine(ON_GPU, Threads(2, 3)))
    assert runtime.created_with["path"] == bundle / "model.onnx"
    assert runtime.created_with["providers"] == [(CUDA, {"device_id": "1"}), (CPU, {})]
    options = runtime.created_with["options"]
    assert options.intra_op_num_threads == 3
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("precision", "more"),
    [("PRECISION_FP32", {}), ("PRECISION_FP16_WEIGHTS", {}), ("PRECISION_FP16", half_options()[CUDA])],
)
def test_a_network_in_16_bits_gets_tensor_cores(
    precision: str, more: dict[str, str], runtime: FakeRuntime, tmp_path: Path
) -> None:
    bundle = colour_bundles.detector(tmp_path)
    colour_bundles.rewrite_manifest(bundle, precision=precision)
    opened(bundle, ON_GPU)
    assert runtime.created_with["providers"] == [(CUDA, {"device_id": "1", **more}), (CPU, {})]


ON_TENSORRT = Provider(TENSORRT, "tensorrt", "", ((TENSORRT, {}), (CUDA, {}), (CPU, {})))


def test_tensorrt_is_told_which_batches_will_come(runtime: FakeRuntime, tmp_path: Path) -> None:
    runtime.running = TENSORRT
    bundle = colour_bundles.region_detector(tmp_path)
    runtime.get_inputs, runtime.get_outputs = described(bundle)  # type: ignore[method-assign]
    opened(bundle, ON_TENSORRT)
    (_, options), (_, cuda), _ = runtime.created_with["providers"]
    assert options["trt_profile_min_shapes"] == "images:1x8x8x3,score_threshold:1,regions:1x3x4"
    assert options["trt_profile_max_shapes"] == "images:128x8x8x3,score_threshold:128,regions:128x3x4"
    assert cuda == {"device_id": "0"}


def test_tensorrt_may_find_out_by_itself_which_batches_come(runtime: FakeRuntime, tmp_path: Path) -> None:
    runtime.running = TENSORRT
    runtime.refuses = "trt_profile_min_shapes"
    with capture_logs() as logged:
        opened(colour_bundles.detector(tmp_path), ON_TENSORRT)
    assert [event["event"] for event in logged] == ["tensorrt_ranges_refused"]
    assert runtime.created_with["providers"][0] == (TENSORRT, {"device_id": "0"})


def described(bundle: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What ONNX Runtime says of a bundle's inputs and outputs."""
    session = REAL_SESSION(bundle / "model.onnx")
    return session.get_inputs, session.get_outputs


def test_a_model_that_the_gpu_did_not_take_is_not_run_elsewhere_unsaid(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.running = CPU
    with pytest.raises(StartupError, match=f"was to run on {CUDA}, but ONNX Runtime gave it to {CPU}"):
        opened(colour_bundles.detector(tmp_path), ON_GPU)


@pytest.mark.parametrize(
    ("output", "change", "named"),
    [
        ("boxes", {"shape": ["N", 7, 4]}, "`detect.max_detections` says 3"),
        ("boxes", {"shape": ["N", 3, 5]}, "has 5 in dimension 2"),
        ("boxes", {"shape": ["N", 3]}, "tensor(float) [N, 3, 4]"),
        ("scores", {"type": "tensor(double)"}, "tensor(double)"),
        ("classes", {"type": "tensor(int64)"}, "tensor(int32)"),
        ("classes", {"name": "labels"}, "output 'classes' is missing; the graph has heatmap, labels"),
    ],
)
def test_an_output_that_breaks_the_contract_is_named(
    output: str, change: dict[str, Any], named: str, runtime: FakeRuntime, tmp_path: Path
) -> None:
    outputs = runtime.get_outputs()
    vars(next(value for value in outputs if value.name == output)).update(change)
    runtime.get_outputs = lambda: outputs  # type: ignore[method-assign]
    with pytest.raises(BundleError) as refused:
        opened(colour_bundles.detector(tmp_path), ON_GPU)
    assert named in refused.value.message
    assert "model.onnx" in refused.value.message


def test_sizes_that_the_graph_leaves_open_are_accepted(runtime: FakeRuntime, tmp_path: Path) -> None:
    outputs = runtime.get_outputs()
    for value in outputs:
        value.shape = ["N", *("open" for _ in value.shape[1:])]
    runtime.get_outputs = lambda: outputs  # type: ignore[method-assign]
    assert opened(colour_bundles.detector(tmp_path), ON_GPU).outputs == ("boxes", "scores", "classes")
