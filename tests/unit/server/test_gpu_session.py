"""Sessions in front of a GPU, whose ONNX Runtime is a stand-in."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt
import onnxruntime
import pytest
from structlog.testing import capture_logs
from tests import colour_bundles
from tests.colour_bundles import SIDE
from tests.unit.server.sessions import COLOURS, opened

from retinue_server.bundle import manifest as manifests
from retinue_server.errors import BundleError, StartupError
from retinue_server.runtime import session as sessions
from retinue_server.runtime.providers import CPU, CUDA, TENSORRT, Provider, half_options
from retinue_server.runtime.session import Machine, Session, Threads

ON_GPU = Provider(CUDA, "cuda", "", ((CUDA, {"device_id": "1"}), (CPU, {})), devices=(1,))
ON_TENSORRT = Provider(TENSORRT, "tensorrt", "", ((TENSORRT, {}), (CUDA, {}), (CPU, {})))
REAL_SESSION = onnxruntime.InferenceSession


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
