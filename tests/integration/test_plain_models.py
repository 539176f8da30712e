"""ONNX models that have no manifest, served as tensors by a real server."""

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from retinue.inference import grpc_service_pb2 as pb
from retinue.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from tests import colour_bundles, plain_models
from tests.metrics_page import wait_until
from tests.server_process import ServerProcess, running_server

from retinue_server import tensors

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("plain")
    for make in (
        plain_models.adder,
        plain_models.multiplier,
        plain_models.echo,
        plain_models.centred,
        plain_models.table,
        plain_models.outside,
        colour_bundles.classifier,
    ):
        make(models)
    return models


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with running_server(models) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield GRPCInferenceServiceStub(channel)


def infer(stub: Any, model: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=tensors.datatype_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(tensors.to_bytes(array))
    reply = stub.ModelInfer(request, timeout=20)
    return {
        told.name: tensors.from_bytes(told.name, told.datatype, told.shape, raw)
        for told, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def refusal(stub: Any, model: str, inputs: Mapping[str, Array]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        infer(stub, model, inputs)
    return refused.value.code(), refused.value.details()


def objects(*texts: bytes) -> Array:
    made = np.empty(len(texts), object)
    made[:] = texts
    return made


def test_several_inputs_are_run_row_by_row(stub: Any) -> None:
    a = np.arange(300, dtype=np.float32).reshape(100, 3)
    b = np.ones_like(a)
    np.testing.assert_array_equal(infer(stub, "adder", {"a": a, "b": b})["sum"], a + 1)


def test_rows_of_many_callers_run_together_and_each_gets_its_own(stub: Any) -> None:
    def call(number: int) -> bool:
        a = np.full((1 + number % 4, 3), number, np.float32)
        found = infer(stub, "adder", {"a": a, "b": a})["sum"]
        return bool((found == 2 * number).all()) and found.shape == a.shape

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(call, range(400)))


def test_scalars_have_no_batch(stub: Any) -> None:
    found = infer(stub, "multiplier", {"a": np.array(3.0), "b": np.array(4.0)})["product"]
    assert found.shape == ()
    assert found == 12
    assert stub.ModelConfig(pb.ModelConfigRequest(name="multiplier")).config.max_batch_size == 0


def test_strings_come_back_as_they_are(stub: Any) -> None:
    text = objects(b"a", "é".encode(), b"", b"x" * 1000).reshape(2, 2)
    said = infer(stub, "echo", {"text": text})["said"]
    assert said.shape == (2, 2)
    assert said.ravel().tolist() == text.ravel().tolist()


def test_a_string_that_is_no_utf8_is_refused_alone(stub: Any) -> None:
    code, details = refusal(stub, "echo", {"text": objects(b"fine", b"\xff").reshape(2, 1)})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in details


def test_a_first_dimension_that_is_no_batch_is_not_taken_for_one(stub: Any) -> None:
    assert stub.ModelConfig(pb.ModelConfigRequest(name="centred")).config.max_batch_size == 0
    rows = np.array([[1, 2], [3, 6]], np.float32)
    np.testing.assert_array_equal(infer(stub, "centred", {"x": rows})["rest"], [[-1, -2], [1, 2]])


def test_a_value_that_the_network_cannot_use_fails_its_own_request_only(stub: Any) -> None:
    def call(number: int) -> bool:
        index = np.array([99 if number % 5 == 0 else number % 5], np.int64)
        if number % 5 == 0:
            code, details = refusal(stub, "table", {"index": index})
            return code is grpc.StatusCode.INVALID_ARGUMENT and "99" in details
        return infer(stub, "table", {"index": index})["found"].tolist() == [number % 5]

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(call, range(300)))


def test_weights_may_lie_beside_the_graph(stub: Any) -> None:
    found = infer(stub, "outside", {"x": np.ones((2, 200), np.float32)})["y"]
    assert (found == 200).all()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": np.ones((1, 3), np.float32)}, "'b'"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((2, 3), np.float32)}, "1, 2 rows"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 4), np.float32)}, "[1, 4]"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float64)}, "FP64"),
        ({"a": np.ones((1, 3), np.float32), "c": np.ones((1, 3), np.float32)}, "'c'"),
        ({"a": np.ones((0, 3), np.float32), "b": np.ones((0, 3), np.float32)}, "no images"),
    ],
    ids=["one missing", "unequal rows", "another shape", "another type", "another name", "no rows"],
)
def test_what_does_not_fit_is_refused(stub: Any, inputs: dict[str, Array], says: str) -> None:
    code, details = refusal(stub, "adder", inputs)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details


def test_the_typed_api_says_that_they_are_for_tensors(server: ServerProcess) -> None:
    from retinue_client import Client, RetinueError

    with Client(server.grpc_address) as client:
        tasks = {model.name: model.task for model in client.list_models()}
        assert (tasks["adder"], tasks["colour-classifier"]) == ("tensor", "classify")
        with pytest.raises(RetinueError, match="serves tensor, not classify"):
            client.classify(np.zeros((8, 8, 3), np.uint8), model="adder")


@pytest.mark.slow
def test_the_light_models_of_onnx_are_served_as_onnx_runtime_runs_them(tmp_path: Path) -> None:
    assert len(LIGHT) == 9
    for path in LIGHT:
        (tmp_path / "models" / path.stem / "1").mkdir(parents=True)
        shutil.copy(path, tmp_path / "models" / path.stem / "1" / "model.onnx")
    noise = np.random.default_rng(0)
    with running_server(tmp_path / "models") as server, grpc.insecure_channel(server.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for path in LIGHT:
            session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            fed = {one.name: noise.random(one.shape, np.float32) for one in session.get_inputs()}
            names = [one.name for one in session.get_outputs()]
            expected = dict(zip(names, session.run(names, fed), strict=True))
            found = infer(stub, path.stem, fed)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("location", ["../../other/weights.bin", "/etc/passwd", "folder/../../x", "link.bin"])
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    models = tmp_path / "models"
    path = plain_models.outside(models)
    plain_models.adder(models)
    (path.parent / "link.bin").symlink_to("/etc/passwd")
    plain_models.relocated(path, location)
    with running_server(models) as server, grpc.insecure_channel(server.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest())
        state = {model.name: model.state for model in index.models}
        assert state == {"adder": "READY", "outside": "UNAVAILABLE"}
        code, details = refusal(stub, "outside", {"x": np.ones((1, 200), np.float32)})
        assert code is grpc.StatusCode.NOT_FOUND
        assert "not beside it" in details
        assert str(tmp_path) not in details


def test_what_would_take_more_memory_than_allowed_is_refused_and_others_are_served(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "adder", tmp_path / "adder")
    plain_models.counted(tmp_path)
    ones = np.ones((1, 3), np.float32)
    with (
        running_server(tmp_path, "--tensor-memory-limit", "64MB") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        assert infer(stub, "counted", {"sizes": np.array([1000, 1000])})["count"] == 1_000_000
        before_bytes = server.memory_bytes()

        def call(number: int) -> bool:
            if number % 2:
                return bool((infer(stub, "adder", {"a": ones, "b": ones})["sum"] == 2).all())
            code, details = refusal(stub, "counted", {"sizes": np.array([1000, 1000, 1000])})
            return code is grpc.StatusCode.INVALID_ARGUMENT and "64 MB" in details

        with ThreadPoolExecutor(8) as callers:
            assert all(callers.map(call, range(40)))
        assert server.peak_memory_bytes() - before_bytes < 100e6
        assert infer(stub, "counted", {"sizes": np.array([1000, 1000])})["count"] == 1_000_000
    assert [line for line in server.stderr_lines if not line.startswith("{")] == []


def test_front_ends_serve_bundles_only_and_say_so(models: Path) -> None:
    with running_server(models, "--workers", "1") as server:
        refused = [event for event in server.events if event["event"] == "model_refused"]
        assert {event["model"] for event in refused} >= {"adder", "echo"}
        assert all("--workers" in event["reason"] for event in refused)


def test_one_that_is_replaced_under_watch_is_served_anew(tmp_path: Path) -> None:
    models = tmp_path / "models"
    path = plain_models.adder(models)
    other = plain_models.centred(tmp_path / "other")
    with (
        running_server(models, "--model-control", "watch") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        other.rename(path)

        def taken() -> set[str]:
            told = stub.ModelMetadata(pb.ModelMetadataRequest(name="adder"))
            return {one.name for one in told.inputs}

        wait_until(lambda: taken() == {"x"}, "the other graph to be served")
        rows = np.array([[1, 2], [3, 6]], np.float32)
        np.testing.assert_array_equal(infer(stub, "adder", {"x": rows})["rest"], [[-1, -2], [1, 2]])


def test_weights_that_change_alone_are_served_anew_under_watch(tmp_path: Path) -> None:
    models = tmp_path / "models"
    weights = plain_models.outside(models).parent / "weights.bin"
    with (
        running_server(models, "--model-control", "watch") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        ones = np.ones((1, 200), np.float32)
        assert (infer(stub, "outside", {"x": ones})["y"] == 200).all()
        # In its place, so that nothing else changes.
        weights.write_bytes(np.full((200, 200), 2, np.float32).tobytes())
        wait_until(lambda: bool((infer(stub, "outside", {"x": ones})["y"] == 400).all()), "the other weights")
