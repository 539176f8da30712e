"""Fewer bits: what they change is measured and written down, and a bundle that lost too much is never written."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from retinue.v1 import manifest_pb2 as pb
from tests.unit.export import tiny
from torch import nn

from retinue_export import assembly, half, parity, precision, quantisation, speed, trunk
from retinue_export.assembly import Candidate, Quality
from retinue_export.errors import ExportError, ParityError
from retinue_export.image_folders import Calibration
from retinue_export.packaging import classifier
from retinue_export.precision import Precision, Wanted
from retinue_server.bundle import manifest as manifest_file

CALIBRATION = Calibration("noise", tiny.images(12), tiny.images(20)[12:])
PACKAGING = classifier(tiny.SPEC, tiny.NORMALISATION)


def ignore(stage: str) -> None: ...


def no_feeds(_images: np.ndarray) -> parity.Outputs:
    return {}


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    """The tiny network in full precision."""
    content = assembly.export(tiny.candidate(), pb.PRECISION_FP32).content
    return onnx.load_model_from_string(content)


@pytest.fixture
def exported_once(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares every test the seconds that PyTorch's exporter takes."""
    network = tiny.candidate().network
    made = assembly.Exported(network, network, graph.SerializeToString())
    monkeypatch.setattr(assembly, "export", lambda *_: made)


def labelled(figures: dict[pb.Precision.ValueType, float]) -> Candidate:
    """The tiny network, whose quality is as given: PyTorch's first, then that of each format in the order of trying."""
    values = iter(figures.values())
    return tiny.candidate(Quality("noise", 9, lambda _runner: {"top1_accuracy": next(values)}))


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each operator's first output."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    known |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    return {node.op_type: known[node.output[0]] for node in inferred.graph.node}


def test_in_fp16_layers_have_16_bits_and_what_is_outside_of_them_keeps_32(graph: onnx.ModelProto) -> None:
    found = types(half.to_fp16(graph))
    assert found["Conv"] == found["Relu"] == found["Gemm"] == TensorProto.FLOAT16
    assert found["Mul"] == found["Add"] == found["Softmax"] == TensorProto.FLOAT


def test_in_fp16_values_outside_of_the_layers_are_never_rounded_between_two_operators(
    graph: onnx.ModelProto,
) -> None:
    casts = [node for node in half.to_fp16(graph).graph.node if node.op_type == "Cast"]
    # Pixels to numbers, numbers into the layers, logits out of them.
    assert len(casts) == 3


def test_a_value_that_two_operators_outside_of_the_layers_take_is_widened_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, (8, 6))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.layer(images).flatten(1)
            return found.exp() - found.sigmoid()

    torch.manual_seed(0)
    model = PACKAGING.graph(Twice())
    exact, halved = (
        parity.runner(parity.session(one.SerializeToString()))(tiny.images(9))["probabilities"]
        for one in (model, half.to_fp16(model))
    )
    np.testing.assert_allclose(halved, exact, atol=0.01)


def test_emulated_16_bits_round_what_a_cpu_would_not(graph: onnx.ModelProto) -> None:
    converted = half.to_fp16(graph)
    exact, on_cpu, emulated = (
        parity.runner(parity.session(model.SerializeToString()))(tiny.images(9))["probabilities"]
        for model in (graph, converted, half.emulated(converted))
    )
    assert 0 < np.abs(emulated - exact).max() < 0.01
    assert not np.array_equal(emulated, on_cpu)


def test_an_fp16_bundle_says_what_16_bits_changed(tmp_path: Path, exported_once: None) -> None:
    folder = assembly.build(tiny.candidate(), tmp_path, 1, ignore, Wanted(Precision.FP16))
    manifest = manifest_file.read(folder)
    assert manifest.precision == pb.PRECISION_FP16
    assert manifest.parity.outputs[0].max_difference < 1e-5 < manifest.parity.rounding[0].max_difference
    assert manifest.parity.rounding[0].tolerance > manifest.parity.rounding[0].max_difference
    assert "16-bit results emulated" in manifest.parity.engines
    assert [(figure.metric, figure.images) for figure in manifest.quality] == [("top1_agreement", 9)]
    assert "rounded" not in manifest.parity.reference
    (images,) = onnx.load(folder / "model.onnx").graph.input
    (answer,) = onnx.load(folder / "model.onnx").graph.output
    assert images.type.tensor_type.elem_type == TensorProto.UINT8
    assert answer.type.tensor_type.elem_type == TensorProto.FLOAT


def scaled(graph: onnx.ModelProto, place: int, largest: float) -> onnx.ModelProto:
    """The graph with weights of up to so much in one of its layers."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    name = trunk.layers(made)[place].input[1]
    (tensor,) = (one for one in made.graph.initializer if one.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values * np.float32(largest / np.abs(values).max()), name))
    return made


@pytest.mark.parametrize("place", [0, 1])
def test_weights_too_large_for_16_bits_are_refused_not_clipped(graph: onnx.ModelProto, place: int) -> None:
    half.to_fp16(scaled(graph, place, 6e4))
    with pytest.raises(ExportError, match=r"values of up to 1e\+05, and 16-bit floats end at 65,504"):
        half.to_fp16(scaled(graph, place, 1e5))


def test_what_stays_in_32_bits_may_be_larger(graph: onnx.ModelProto) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    (normalise,) = (node for node in made.graph.node if node.op_type == "Mul")
    (tensor,) = (one for one in made.graph.initializer if one.name in normalise.input)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e6), tensor.name))
    half.to_fp16(made)


def test_an_int8_bundle_says_how_it_was_quantised_and_what_that_changed(
    tmp_path: Path, exported_once: None
) -> None:
    wanted = Wanted(Precision.INT8, CALIBRATION, max_drop=100)
    folder = assembly.build(tiny.candidate(), tmp_path, 1, ignore, wanted)
    manifest = manifest_file.read(folder)
    assert manifest.precision == pb.PRECISION_INT8
    assert manifest.quantisation.calibration == "noise"
    assert manifest.quantisation.calibration_images == 12
    assert manifest.quantisation.method == quantisation.METHOD
    assert manifest.parity.outputs[0].max_difference < 1e-5 < manifest.parity.rounding[0].max_difference
    (figure,) = manifest.quality
    assert (figure.metric, figure.images) == ("top1_agreement", 8)
    assert "held back from calibration" in figure.dataset


def test_in_int8_the_runtime_computes_layers_in_integers_and_the_rest_in_float(
    graph: onnx.ModelProto, tmp_path: Path
) -> None:
    made = quantisation.to_int8(graph, tiny.images(12), no_feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    run = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert run == [
        *("Cast", "Mul", "Add", "QuantizeLinear", "QLinearConv", "Transpose", "DequantizeLinear"),
        *("ReduceMean", "QuantizeLinear", "Reshape", "QGemm", "Softmax"),
    ]
    kept = {node.op_type for node in graph.graph.node if node.name in made.float_nodes}
    assert {"Cast", "Mul", "Add", "Transpose", "Softmax"} <= kept
    assert not {"Conv", "Gemm"} & kept


class _Attending(nn.Module):
    """Every place looks at every other."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Conv2d(3, 8, 2, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(images).flatten(2)
        weights = (tokens.transpose(1, 2) @ tokens).softmax(dim=2)
        return self.head((tokens @ weights).mean(dim=2))


def test_products_of_two_activations_stay_in_float() -> None:
    torch.manual_seed(0)
    made = quantisation.to_int8(PACKAGING.graph(_Attending()), tiny.images(12), no_feeds)
    products = [node.name for node in made.model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 2
    assert set(products) <= set(made.float_nodes)


def test_ranges_are_measured_whatever_the_graph_takes_beside_images(graph: onnx.ModelProto) -> None:
    fed: list[int] = []

    def feeds(images: np.ndarray) -> parity.Outputs:
        fed.append(len(images))
        return {}

    quantisation.to_int8(graph, tiny.images(12), feeds)
    assert fed == [1] * 12


@pytest.mark.parametrize(
    "convert", [half.to_fp16, lambda model: quantisation.to_int8(model, tiny.images(9), no_feeds)]
)
def test_a_network_without_layers_is_refused(convert: object) -> None:
    pooled = PACKAGING.graph(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert callable(convert)
    with pytest.raises(ExportError, match="no layer with weights"):
        convert(pooled)


def test_logging_that_was_off_stays_off(graph: onnx.ModelProto) -> None:
    logging.disable(logging.ERROR)
    try:
        quantisation.to_int8(graph, tiny.images(9), no_feeds)
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


def test_what_the_quantiser_cannot_do_is_told_in_one_sentence(
    graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ValueError("It has no Conv.\nAnd more.")

    monkeypatch.setattr(quantisation, "quantize_static", fail)
    with pytest.raises(ExportError, match=r"^The network cannot be quantised: It has no Conv\. Export"):
        quantisation.to_int8(graph, tiny.images(9), no_feeds)


@pytest.mark.parametrize(("max_drop", "written"), [(1.0, False), (2.9, False), (3.0, True), (50.0, True)])
def test_a_drop_in_quality_is_held_against_what_is_allowed(
    tmp_path: Path, exported_once: None, max_drop: float, written: bool
) -> None:
    candidate = labelled({pb.PRECISION_FP32: 0.93, pb.PRECISION_INT8: 0.90})
    wanted = Wanted(Precision.INT8, CALIBRATION, max_drop=max_drop)
    if written:
        manifest = manifest_file.read(assembly.build(candidate, tmp_path, 1, ignore, wanted))
        assert [
            (figure.metric, figure.engine, figure.precision, figure.value) for figure in manifest.quality
        ][:2] == [
            ("top1_accuracy", "pytorch", pb.PRECISION_FP32, 0.93),
            ("top1_accuracy", "onnxruntime", pb.PRECISION_INT8, 0.90),
        ]
    else:
        with pytest.raises(ParityError, match=r"falls from 0\.9300 to 0\.9000 in int8 .* 3\.00 points"):
            assembly.build(candidate, tmp_path, 1, ignore, wanted)
        assert list(tmp_path.rglob("*")) == []


RATES = {pb.PRECISION_FP32: 100.0, pb.PRECISION_FP16: 300.0, pb.PRECISION_INT8: 200.0}


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each format as fast as `RATES` says."""
    monkeypatch.setattr(
        speed,
        "measure",
        lambda _content, manifest, _feeds, provider: pb.SpeedMeasurement(
            precision=manifest.precision, provider=provider.name, images_per_second=RATES[manifest.precision]
        ),
    )


@pytest.mark.parametrize(
    ("int8_quality", "chosen", "said"), [(0.9, pb.PRECISION_INT8, 0), (0.7, pb.PRECISION_FP32, 1)]
)
def test_auto_takes_the_fastest_that_has_not_lost_too_much(
    tmp_path: Path, exported_once: None, rates: None, int8_quality: float, chosen: int, said: int
) -> None:
    notes: list[str] = []
    candidate = labelled(
        {pb.PRECISION_UNSPECIFIED: 0.9, pb.PRECISION_FP32: 0.9, pb.PRECISION_INT8: int8_quality}
    )
    wanted = Wanted(Precision.AUTO, CALIBRATION, provider=speed.choose("cpu"))
    manifest = manifest_file.read(assembly.build(candidate, tmp_path, 1, ignore, wanted, notes.append))
    assert manifest.precision == chosen
    assert manifest.HasField("quantisation") == (chosen == pb.PRECISION_INT8)
    first = manifest.speeds[0]
    assert (first.precision, first.provider) == (pb.PRECISION_FP32, "CPUExecutionProvider")
    assert len(notes) == said
    assert len(manifest.speeds) == 2 - said


def test_in_front_of_a_gpu_auto_tries_fp16_too(tmp_path: Path, exported_once: None, rates: None) -> None:
    gpu = replace(speed.choose("cpu"), name="CUDAExecutionProvider")
    wanted = Wanted(Precision.AUTO, CALIBRATION, max_drop=100, provider=gpu)
    manifest = manifest_file.read(assembly.build(tiny.candidate(), tmp_path, 1, ignore, wanted))
    assert manifest.precision == pb.PRECISION_FP16
    assert {one.precision for one in manifest.speeds} == set(RATES)


def described() -> pb.ModelManifest:
    """What the tiny network's manifest says before its speed is measured."""
    manifest = tiny.candidate().manifest
    manifest.input.CopyFrom(assembly.image_input(tiny.SPEC, tiny.NORMALISATION))
    manifest.precision = pb.PRECISION_FP32
    return manifest


def test_auto_leaves_out_what_cannot_be_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(content: bytes, manifest: pb.ModelManifest, *_: object) -> pb.SpeedMeasurement:
        if content == b"fails":
            raise ExportError("It has no memory.")
        return pb.SpeedMeasurement(precision=manifest.precision, images_per_second=float(content))

    monkeypatch.setattr(speed, "measure", measure)
    halved = precision.Form(pb.PRECISION_FP16, b"fails")
    slow, fast = (precision.Form(pb.PRECISION_FP32, b"1"), precision.Form(pb.PRECISION_INT8, b"2"))
    manifest, notes = described(), []
    arguments = (manifest, no_feeds, speed.choose("cpu"), notes.append)
    assert precision.fastest([slow, halved, fast], *arguments) is fast
    assert notes == ["fp16 is not taken: It has no memory."]
    assert [one.precision for one in manifest.speeds] == [pb.PRECISION_FP32, pb.PRECISION_INT8]
    with pytest.raises(ExportError, match="can run the network in no format: name one with --precision"):
        precision.fastest([halved], *arguments)


def test_a_network_that_fails_while_it_is_measured_is_refused_in_one_sentence(
    graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory.\nAnd more."
        )

    provider = speed.choose("cpu")
    with pytest.raises(ExportError, match=r"^CPUExecutionProvider cannot run the network: .*[Pp]rotobuf"):
        speed.measure(b"no graph", described(), no_feeds, provider)
    monkeypatch.setattr(speed.Session, "run", fail)
    with pytest.raises(ExportError, match=r"cannot run the network: Failed to allocate memory\.$"):
        speed.measure(graph.SerializeToString(), described(), no_feeds, provider)


def test_speed_is_measured_with_the_servers_session(graph: onnx.ModelProto) -> None:
    measured = speed.measure(graph.SerializeToString(), described(), no_feeds, speed.choose("cpu"))
    assert measured.provider == "CPUExecutionProvider"
    assert measured.images_per_second > 0
    assert measured.batch_size >= 1
    assert measured.device.endswith(", one thread")
