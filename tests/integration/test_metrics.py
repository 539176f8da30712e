"""/metrics counts what happened."""

import re
from itertools import product

import grpc
import httpx
import onnxruntime
import pytest
from retinue.inference import grpc_service_pb2 as oip
from retinue.inference import grpc_service_pb2_grpc
from tests.calls import Connection, encoded, flat, refused
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess

from retinue_server import __version__

_RED = flat(255, 0, 0)
_CLASSIFIER = {"model": "colour-classifier", "version": "1"}
_MODELS = ("colour-classifier", "colour-detector", "colour-segmenter")


class Change:
    """What became of the metrics since this was made."""

    def __init__(self, server: ServerProcess) -> None:
        self._url = server.http_url
        self._before = MetricsPage(self._url)

    def of(self, name: str, **labels: str) -> float:
        """By how much the sum over these lines has grown."""
        return MetricsPage(self._url).total(name, **labels) - self._before.total(name, **labels)


@pytest.fixture
def change(colour_server: ServerProcess, colour: Connection) -> Change:
    # Batches are counted just after their answers have left: wait for those of earlier tests.
    before = Change(colour_server)
    colour.classify(_RED)
    wait_until(
        lambda: before.of("retinue_batch_size_sum", **_CLASSIFIER) >= 1, "earlier batches to be counted"
    )
    return Change(colour_server)


def test_calls_are_counted_by_method_model_version_and_code(change: Change, colour: Connection) -> None:
    colour.classify(_RED)
    colour.classify(_RED, _RED)
    colour.detect(_RED)
    colour.get_model("colour-segmenter")
    colour.list_models()
    refused(lambda: colour.classify(_RED, top_k=0))

    for labels, count in (
        ({"method": "Classify", **_CLASSIFIER, "code": "OK"}, 2),
        ({"method": "Classify", **_CLASSIFIER, "code": "INVALID_ARGUMENT"}, 1),
        ({"method": "Detect", "model": "colour-detector", "version": "1", "code": "OK"}, 1),
        ({"method": "GetModel", "model": "colour-segmenter", "version": "1", "code": "OK"}, 1),
        ({"method": "ListModels", "model": "", "version": "", "code": "OK"}, 1),
    ):
        assert change.of("retinue_requests_total", **labels) == count
        assert change.of("retinue_request_duration_seconds_count", **labels) == count
        assert change.of("retinue_request_duration_seconds_bucket", **labels, le="+Inf") == count
        assert change.of("retinue_request_duration_seconds_sum", **labels) > 0
    assert change.of("retinue_requests_total") == 6


def test_images_are_counted_by_outcome_and_stage(change: Change, colour: Connection) -> None:
    colour.classify(_RED, encoded(b"no image"), _RED)

    assert change.of("retinue_images_total", **_CLASSIFIER, outcome="answered") == 2
    assert change.of("retinue_images_total", **_CLASSIFIER, outcome="failed") == 1
    for stage in ("decode", "inference", "postprocess"):
        assert change.of("retinue_stage_duration_seconds_count", **_CLASSIFIER, stage=stage) == 2
        assert change.of("retinue_stage_duration_seconds_sum", **_CLASSIFIER, stage=stage) > 0
    assert change.of("retinue_stage_duration_seconds_count", **_CLASSIFIER, stage="queue") >= 2
    # The image that could not be opened was never run.
    wait_until(lambda: change.of("retinue_batch_size_sum", **_CLASSIFIER) == 2, "the batch to be counted")
    assert 1 <= change.of("retinue_batch_size_count", **_CLASSIFIER) <= 2
    assert change.of("retinue_images_total", model="colour-detector") == 0


def test_what_callers_make_up_never_becomes_a_label(
    change: Change, colour: Connection, colour_server: ServerProcess
) -> None:
    refused(lambda: colour.classify(_RED, model="made-up-model"))
    refused(lambda: colour.classify(_RED, model="colour-classifier", version=4711))
    refused(lambda: colour.get_model("made-up-model"))
    refused(lambda: colour.detect(_RED, classes=["made-up-class"]))
    with pytest.raises(grpc.RpcError):
        colour.channel.unary_unary("/retinue.v1.VisionService/MadeUpMethod")(b"")
    with pytest.raises(grpc.RpcError):
        colour.channel.unary_unary("/made.up.Service/Method")(b"")
    httpx.get(f"{colour_server.http_url}/made-up-path")

    assert change.of("retinue_requests_total", model="", version="", code="NOT_FOUND") == 3
    page = MetricsPage(colour_server.http_url)
    said = {value for sample in page.samples for value in sample.labels.values()}
    assert "4711" not in said
    assert not re.search("made.?up", page.text, re.IGNORECASE)


def test_however_many_names_callers_make_up_there_are_no_more_lines(
    colour: Connection, colour_server: ServerProcess
) -> None:
    triton = grpc_service_pb2_grpc.GRPCInferenceServiceStub(colour.channel)

    def make_up(number: int) -> None:
        name = f"made-up-{number}"
        refused(lambda: colour.classify(_RED, model=name))
        refused(lambda: colour.classify(_RED, model="colour-classifier", version=4711 + number))
        refused(lambda: colour.detect(_RED, classes=[name]))
        for path in (f"/retinue.v1.VisionService/Method{number}", f"/made.up{number}.Service/Method"):
            with pytest.raises(grpc.RpcError):
                colour.channel.unary_unary(path)(b"")
        with pytest.raises(grpc.RpcError):
            triton.ModelInfer(oip.ModelInferRequest(model_name=name, model_version=str(number)))
        with pytest.raises(grpc.RpcError):
            triton.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name))
        for path in (f"/{name}", f"/v1/models/{name}", f"/v2/models/{name}/versions/{number}", f"/v3/{name}"):
            pages.get(path, headers={name: name})
        for path in (f"/v1/models/{name}:classify", f"/v1/models/colour-classifier:method{number}"):
            pages.post(path, content=b"no image", headers={"te": name})

    def series() -> set[tuple[str, ...]]:
        samples = MetricsPage(colour_server.http_url).samples
        return {(sample.name, *sorted(sample.labels.values())) for sample in samples}

    with httpx.Client(base_url=colour_server.http_url) as pages:
        make_up(1)
        before = series()
        for number in range(2, 30):
            make_up(number)
    assert series() - before == set()


def test_an_idle_server_has_empty_queues_and_is_ready(colour_server: ServerProcess) -> None:
    page = MetricsPage(colour_server.http_url)
    assert {
        sample.labels["model"]: sample.value for sample in page.find("retinue_queue_images")
    } == dict.fromkeys(_MODELS, 0)
    assert page.value("retinue_ready") == 1


def test_memory_is_told_by_process_and_model(colour_server: ServerProcess) -> None:
    page = MetricsPage(colour_server.http_url)
    resident = page.value("process_resident_memory_bytes")
    assert resident == pytest.approx(colour_server.memory_bytes(), rel=0.2)
    taken = {
        (sample.labels["model"], sample.labels["part"]): sample.value
        for sample in page.find("retinue_model_memory_bytes", version="1")
    }
    assert taken.keys() == set(product(_MODELS, ("weights", "arena", "buffers")))
    assert 0 < sum(taken.values()) < resident


def test_models_and_the_build_are_described(colour_server: ServerProcess) -> None:
    page = MetricsPage(colour_server.http_url)
    (build,) = page.find("retinue_build_info")
    assert build.value == 1
    assert build.labels["version"] == __version__
    assert build.labels["onnxruntime"] == onnxruntime.__version__
    info = {sample.labels["model"]: sample for sample in page.find("retinue_model_info")}
    assert {name: sample.labels["task"] for name, sample in info.items()} == {
        "colour-classifier": "classify",
        "colour-detector": "detect",
        "colour-segmenter": "segment",
    }
    for sample in info.values():
        assert sample.value == 1
        assert sample.labels.keys() >= {"version", "precision", "provider", "fallback"}


def test_every_metric_of_a_model_is_there_before_its_first_request(small_server: ServerProcess) -> None:
    """Else rates over the first requests would be lost."""
    page = MetricsPage(small_server.http_url)
    for name in (
        "retinue_images_total",
        "retinue_stage_duration_seconds_count",
        "retinue_batch_size_count",
        "retinue_queue_images",
        "retinue_model_memory_bytes",
        "retinue_model_info",
    ):
        assert page.find(name, model="slow-classifier", version="1"), name
    # A machine without a GPU has the metric's description, and no lines.
    assert "# TYPE retinue_gpu_memory_used_bytes gauge" in page.text
    assert "# TYPE retinue_gpu_memory_total_bytes gauge" in page.text


def test_the_page_can_be_had_as_openmetrics(colour_server: ServerProcess) -> None:
    plain = httpx.get(f"{colour_server.http_url}/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = httpx.get(f"{colour_server.http_url}/metrics", headers=accept)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
