from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.server.served import served_model

from retinue_server.batching.tickets import Outcome
from retinue_server.errors import ImageError
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, Classification


def values(metrics: Metrics) -> dict[str, float]:
    """What /metrics says under Triton's names of version 2 of "cats"."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("nv_") and sample.labels == {"model": "cats", "version": "2"}
    }


def counted(metrics: Metrics) -> Metrics:
    """One request of two images was answered but for one of these, one failed, and metadata was asked for."""
    count_batch = metrics.batch_counter("cats", 2)
    answer = Answer(Classification([0], [1.0]), 0.001, 0.002, 0.0005, 2)
    outcomes = [Outcome(answer, 0.01), Outcome(ImageError("no image."), None)]
    count_batch(2, 0.003)
    metrics.count_images(served_model("cats", 2), outcomes)  # type: ignore[arg-type]
    metrics.count_call("ModelInfer", "cats", "2", "OK", 0.02)
    metrics.count_call("Classify", "cats", "2", "RESOURCE_EXHAUSTED", 0.5)
    metrics.count_call("ModelMetadata", "cats", "2", "OK", 7.0)
    return metrics


def test_they_are_there_only_where_they_are_wanted() -> None:
    assert values(counted(Metrics())) == {}


def test_they_say_what_was_counted() -> None:
    metrics = counted(Metrics(triton_names=True))
    found = values(metrics)
    assert {name: round(value) for name, value in found.items()} == {
        "nv_inference_request_success": 1,
        "nv_inference_request_failure": 1,
        "nv_inference_count": 2,
        "nv_inference_exec_count": 1,
        "nv_inference_request_duration_us": 20_000,
        "nv_inference_queue_duration_us": 10_000,
        "nv_inference_compute_input_duration_us": 1_000,
        "nv_inference_compute_infer_duration_us": 2_000,
        "nv_inference_compute_output_duration_us": 500,
    }


def test_a_model_that_is_gone_is_gone_there_too() -> None:
    metrics = counted(Metrics(triton_names=True))
    metrics.forget_model("cats", 2)
    assert values(metrics) == {}
