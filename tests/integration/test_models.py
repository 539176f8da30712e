"""ListModels and GetModel tell what is served and how it runs."""

from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import json_format
from retinue.v1 import manifest_pb2
from tests import colour_bundles
from tests.calls import Connection, connected, flat
from tests.metrics_page import MetricsPage
from tests.server_process import ServerProcess, running_server


@pytest.fixture(scope="module")
def versioned_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("versioned")
    for version in (2, 10, 1):
        colour_bundles.classifier(models, "b-classifier", version)
    # The second version sees blue where the others see red.
    colour_bundles.rewrite_manifest(models / "b-classifier" / "2", labels=["blue", "green", "red"])
    colour_bundles.segmenter(models, "a-segmenter", 7)
    return models


@pytest.fixture(scope="module")
def versioned_server(versioned_models: Path) -> Iterator[ServerProcess]:
    with running_server(versioned_models) as server:
        yield server


@pytest.fixture(scope="module")
def versioned(versioned_server: ServerProcess) -> Iterator[Connection]:
    with connected(versioned_server.grpc_address) as connection:
        yield connection


def test_models_are_listed_by_name_newest_version_first(versioned: Connection) -> None:
    assert [(model.name, model.version) for model in versioned.list_models()] == [
        ("a-segmenter", 7),
        ("b-classifier", 10),
        ("b-classifier", 2),
        ("b-classifier", 1),
    ]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (manifest_pb2.TASK_CLASSIFY, ["colour-classifier"]),
        (manifest_pb2.TASK_DETECT, ["colour-detector"]),
        (manifest_pb2.TASK_SEGMENT, ["colour-segmenter"]),
        (manifest_pb2.TASK_UNSPECIFIED, ["colour-classifier", "colour-detector", "colour-segmenter"]),
    ],
)
def test_models_are_listed_by_task(task: int, names: list[str], colour: Connection) -> None:
    assert [model.name for model in colour.list_models(task)] == names


def test_a_list_without_models_is_empty(small: Connection) -> None:
    assert not small.list_models(manifest_pb2.TASK_SEGMENT)


@pytest.mark.parametrize(("asked", "answered"), [(0, 10), (1, 1), (2, 2), (10, 10)])
def test_the_version_asked_for_answers_and_0_is_the_newest(
    asked: int, answered: int, versioned: Connection
) -> None:
    assert versioned.get_model("b-classifier", asked).version == answered
    response = versioned.classify(flat(255, 0, 0), model="b-classifier", version=asked)
    assert response.version == answered
    assert response.outcomes[0].result.classes[0].label == ("blue" if answered == 2 else "red")
    # The name may be left out, as there is one name for the task.
    assert versioned.classify(flat(255, 0, 0), version=asked).version == answered


@pytest.mark.parametrize("name", ["colour-classifier", "colour-detector", "colour-segmenter"])
def test_a_model_is_described_by_its_manifest(name: str, colour: Connection, colour_models: Path) -> None:
    text = (colour_models / name / "1" / "manifest.json").read_text()
    manifest = json_format.Parse(text, manifest_pb2.ModelManifest())
    model = colour.get_model(name)
    assert (model.name, model.version) == (name, 1)
    assert model.manifest == manifest
    assert [listed for listed in colour.list_models() if listed.name == name] == [model]


def test_a_model_says_how_it_runs(small: Connection, small_server: ServerProcess) -> None:
    execution = small.get_model("colour-classifier").execution
    assert execution.provider == "CPUExecutionProvider"
    assert execution.runtime_version == onnxruntime.__version__
    assert execution.instances == 1
    assert execution.threads_per_instance >= 1
    assert 1 <= execution.max_batch_size <= 32
    assert execution.images_per_second > 0
    assert 0 < execution.lone_image_us < 10_000_000
    sizes = [batch.batch_size for batch in execution.batches]
    assert (sizes[0], sizes[-1]) == (1, execution.max_batch_size)
    assert all(batch.batch_us > 0 for batch in execution.batches)
    page = MetricsPage(small_server.http_url)
    for part, size_bytes in (
        ("weights", execution.memory.weights_bytes),
        ("arena", execution.memory.arena_bytes),
        ("buffers", execution.memory.buffers_bytes),
    ):
        told = page.value("retinue_model_memory_bytes", model="colour-classifier", part=part)
        assert told == size_bytes >= 0, part
    assert execution.memory_bytes == page.total("retinue_model_memory_bytes", model="colour-classifier") > 0
