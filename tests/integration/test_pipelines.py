"""Models that run one after another as one, as manifests declare them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from retinue.inference import grpc_service_pb2 as inference
from retinue.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from retinue.v1 import vision_service_pb2 as pb
from tests import colour_bundles, living_bundles, pictures, plain_models
from tests.calls import Connection, connected, encoded, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.pipelines import declare
from tests.server_process import ServerProcess, running_server

from retinue_server.tensors import DTYPES, datatype_of, to_bytes

TWICE = ("adder", {"model": "adder", "inputs": {"a": "sum", "b": "sum"}})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("pipelines")
    colour_bundles.classifier(models)
    colour_bundles.detector(models)
    plain_models.adder(models)
    pixels = TensorProto.UINT8, ["N", 8, 8, 3]
    node = helper.make_node("Identity", ["pixels"], ["shown"])
    plain_models.save(models, "screen", [node], [("pixels", *pixels)], [("shown", *pixels)])
    declare(models, "find-and-name", "TASK_DETECT", "colour-detector", "colour-classifier")
    declare(models, "four-times", "TASK_TENSOR", *TWICE)
    named = {"model": "colour-classifier", "inputs": {"images": "shown"}}
    declare(models, "look", "TASK_TENSOR", "screen", named)
    declare(models, "unfit", "TASK_TENSOR", "screen", TWICE[1])
    for version in (1, 2):
        living_bundles.put(models, "colours", version, inverted=version == 2)
    declare(models, "released", "TASK_DETECT", "colour-detector", "colours")
    declare(
        models, "released", "TASK_DETECT", "colour-detector", {"model": "colours", "version": 2}, version=2
    )
    split = [{"version": 1, "percent": 60}, {"version": 2, "percent": 40}]
    (models / "colours" / "serving.json").write_text(json.dumps({"split": split}))
    policy = {"labels": {"stable": 1, "canary": 2}, "split": [{"label": "stable", "percent": 100}]}
    policy["shadow"] = {"label": "canary", "percent": 100}
    (models / "released" / "serving.json").write_text(json.dumps(policy))
    return models


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with running_server(models) as server:
        yield server


@pytest.fixture(scope="module")
def connection(server: ServerProcess) -> Iterator[Connection]:
    with connected(server.grpc_address) as connection:
        yield connection


def stub(connection: Connection) -> Any:
    return GRPCInferenceServiceStub(connection.channel)


def infer(connection: Connection, model: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    request = inference.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(to_bytes(array))
    reply = stub(connection).ModelInfer(request)
    assert reply.model_name == model
    return {
        told.name: np.frombuffer(raw, DTYPES[told.datatype]).reshape(told.shape)
        for told, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def test_a_detector_and_a_classifier_answer_under_one_name(connection: Connection) -> None:
    picture = pictures.solid(pictures.BLUE, 40, 20)
    picture.paste(pictures.RED, (0, 0, 20, 20))
    image = encoded(pictures.encode(picture))
    for asked in ({}, {"classify_with": pb.ClassifyWith(top_k=1)}):
        response = connection.detect(image, model="find-and-name", score_threshold=0.3, **asked)
        assert (response.model, response.classifier) == ("find-and-name", "colour-classifier")
        (outcome,) = response.outcomes
        assert [one.classes[0].label for one in outcome.result.detections] == ["red", "red"]
        assert {len(one.classes) for one in outcome.result.detections} == {1 if asked else 3}
    told = connection.get_model("find-and-name")
    assert list(told.manifest.labels) == ["red", "green", "blue"]
    assert [step.model for step in told.manifest.pipeline.steps] == ["colour-detector", "colour-classifier"]


def test_a_pipeline_has_a_serving_policy_of_its_own_and_those_of_its_steps_are_not_for_it(
    connection: Connection, server: ServerProcess
) -> None:
    image = flat(255, 0, 0)

    def asked(**request: Any) -> tuple[int, int]:
        reply = connection.detect(image, model="released", **request)
        return reply.version, reply.classifier_version

    # The classifier's split shares out its own requests.
    assert {asked() for _ in range(20)} == {(1, 1)}
    assert asked(version_label="canary") == (2, 2)
    assert asked(classify_with=pb.ClassifyWith(top_k=1, version=2)) == (1, 2)
    told = {"model": "released", "version": "1", "candidate": "2", "outcome": "compared"}
    wait_until(
        lambda: MetricsPage(server.http_url).total("retinue_shadow_images_total", **told) == 21, "the copies"
    )


def test_outputs_of_a_step_are_inputs_of_the_next(connection: Connection) -> None:
    ones = np.ones((5, 3), np.float32)
    found = infer(connection, "four-times", {"a": ones, "b": ones * np.arange(5, dtype=np.float32)[:, None]})
    assert found["sum"].tolist() == [[2.0 * (1 + row)] * 3 for row in range(5)]
    metadata = stub(connection).ModelMetadata(inference.ModelMetadataRequest(name="four-times"))
    assert [(one.name, list(one.shape)) for one in metadata.inputs] == [("a", [-1, 3]), ("b", [-1, 3])]
    assert [one.name for one in metadata.outputs] == ["sum"]
    config = stub(connection).ModelConfig(inference.ModelConfigRequest(name="four-times")).config
    assert [(dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step] == [
        ({"a": "a", "b": "b"}, {"sum": "0.sum"}),
        ({"a": "0.sum", "b": "0.sum"}, {"sum": "sum"}),
    ]
    detecting = stub(connection).ModelConfig(inference.ModelConfigRequest(name="find-and-name")).config
    (step,) = detecting.ensemble_scheduling.step
    assert (detecting.platform, step.model_name) == ("ensemble", "colour-detector")


def test_pixels_that_a_network_makes_are_classified(connection: Connection) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[0, ..., 1] = pixels[1, ..., 2] = 255
    found = infer(connection, "look", {"pixels": pixels})
    assert found["probabilities"].argmax(axis=1).tolist() == [1, 2]


def test_what_does_not_fit_is_refused_and_said_why(connection: Connection, server: ServerProcess) -> None:
    refusal = refused(lambda: infer(connection, "unfit", {"pixels": np.zeros((1, 8, 8, 3), np.uint8)}))
    assert refusal.code == "NOT_FOUND"
    assert "manifest.json: field `pipeline.steps[1].inputs` must say where 'a'" in refusal.message
    events = [event for event in server.events if event["event"] == "model_refused"]
    assert [event["model"] for event in events] == ["unfit"]


def test_a_pipelines_images_are_its_own_and_take_no_memory(
    connection: Connection, server: ServerProcess
) -> None:
    connection.detect(flat(255, 0, 0), model="find-and-name")
    page = MetricsPage(server.http_url)
    assert page.total("retinue_images_total", model="find-and-name", outcome="answered") >= 1
    assert connection.get_model("find-and-name").execution.memory_bytes == 0


def ready(connection: Connection, model: str) -> bool:
    return bool(stub(connection).ModelReady(inference.ModelReadyRequest(name=model)).ready)


def controlled(connection: Connection, method: str, model: str) -> None:
    request = getattr(inference, f"RepositoryModel{method}Request")(model_name=model)
    getattr(stub(connection), f"RepositoryModel{method}")(request)


def test_a_pipeline_is_served_while_its_steps_are(models: Path) -> None:
    arguments = ("--model-control", "explicit", "--load-models", "four-times,find-and-name,colour-detector")
    with running_server(models, *arguments) as server, connected(server.grpc_address) as connection:
        control = partial(controlled, connection)
        assert not ready(connection, "four-times")
        refusal = refused(lambda: control("Load", "four-times"))
        assert refusal.code == "FAILED_PRECONDITION"
        assert "field `pipeline.steps[0].model` is 'adder'" in refusal.message
        index = stub(connection).RepositoryIndex(inference.RepositoryIndexRequest()).models
        (told,) = [one for one in index if one.name == "four-times"]
        assert (told.state, "is 'adder'" in told.reason) == ("UNAVAILABLE", True)

        control("Load", "adder")
        assert ready(connection, "four-times")
        ones = np.ones((1, 3), np.float32)
        assert infer(connection, "four-times", {"a": ones, "b": ones})["sum"].tolist() == [[4, 4, 4]]
        control("Unload", "adder")
        assert not ready(connection, "four-times")
        refusal = refused(lambda: infer(connection, "four-times", {"a": ones, "b": ones}))
        assert refusal.code == "NOT_FOUND"

        control("Load", "colour-classifier")
        assert connection.detect(flat(255, 0, 0), model="find-and-name").classifier == "colour-classifier"
        control("Unload", "find-and-name")
        refusal = refused(lambda: connection.detect(flat(255, 0, 0), model="find-and-name"))
        assert refusal.code == "NOT_FOUND"
        assert connection.detect(flat(255, 0, 0), model="colour-detector").classifier == ""


def test_a_pipeline_that_is_put_into_a_watched_folder_is_served(tmp_path: Path) -> None:
    plain_models.adder(tmp_path)
    with (
        running_server(tmp_path, "--model-control", "watch") as server,
        connected(server.grpc_address) as connection,
    ):
        declare(tmp_path, "four-times", "TASK_TENSOR", *TWICE)
        wait_until(lambda: ready(connection, "four-times"), "the pipeline")


def test_front_ends_serve_pipelines_that_detect_and_say_that_they_serve_no_others(tmp_path: Path) -> None:
    colour_bundles.classifier(tmp_path)
    colour_bundles.detector(tmp_path)
    declare(tmp_path, "find-and-name", "TASK_DETECT", "colour-detector", "colour-classifier")
    declare(tmp_path, "four-times", "TASK_TENSOR", *TWICE)
    arguments = ("--workers", "2", "--model-control", "explicit", "--load-models", "all")
    with running_server(tmp_path, *arguments) as server, ExitStack() as opened:
        connections = [opened.enter_context(connected(server.grpc_address)) for _ in range(4)]
        for connection in connections:
            reply = connection.detect(flat(255, 0, 0), model="find-and-name")
            assert (reply.model, reply.classifier) == ("find-and-name", "colour-classifier")
            assert {one.classes[0].label for one in reply.outcomes[0].result.detections} == {"red"}
            refusal = refused(lambda: connection.get_model("four-times"))  # noqa: B023
            assert refusal.code == "NOT_FOUND"
            assert "--workers serves detecting ones only" in refusal.message
        controlled(connections[0], "Unload", "colour-classifier")
        assert not any(ready(connection, "find-and-name") for connection in connections)
        controlled(connections[1], "Load", "colour-classifier")
        for connection in connections:
            assert connection.detect(flat(255, 0, 0), model="find-and-name").classifier == "colour-classifier"
        controlled(connections[2], "Unload", "find-and-name")
        assert not any(ready(connection, "find-and-name") for connection in connections)
        page = MetricsPage(server.http_url)
        assert not page.find("retinue_images_total", model="find-and-name")
        assert page.total("retinue_images_total", model="colour-detector", outcome="answered") == 0
        assert server.terminate() == 0
