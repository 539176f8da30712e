"""What a model has done is counted, and told as the Open Inference Protocol has it."""

import time
from collections.abc import Iterator

import pytest
from retinue.inference import grpc_service_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.batching.tickets import Outcome
from retinue_server.errors import ImageError
from retinue_server.metrics import Metrics
from retinue_server.results import Answer, Classification
from retinue_server.rpc.inference_replies import statistics
from retinue_server.tally import Statistics, Tally, summed


def answered(queue_seconds: float = 0.5) -> Outcome[Answer]:
    return Outcome(Answer(Classification([], []), 0.25, 2.0, 0.125, batch_size=4), queue_seconds)


def failed() -> Outcome[Answer]:
    return Outcome(ImageError("the image is none."), None)


def test_nothing_is_counted_at_first() -> None:
    tally = Tally()
    assert (tally.success, tally.fail, tally.images, tally.last_at) == ((0, 0.0), (0, 0.0), 0, 0.0)
    assert tally.batches == {}


def test_requests_that_were_answered_are_counted_apart_from_those_that_were_not() -> None:
    tally = Tally()
    tally.count_request(0.5, answered=True)
    tally.count_request(0.25, answered=True)
    tally.count_request(2.0, answered=False)
    assert (tally.success, tally.fail) == ((2, 0.75), (1, 2.0))


def test_images_are_counted_with_the_time_of_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter((1000.0, 2000.5))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    tally = Tally()
    tally.count_images(3)
    tally.count_images(2)
    assert (tally.images, tally.last_at) == (5, 2000.5)


def test_batches_are_counted_by_their_size() -> None:
    tally = Tally()
    for size, seconds in ((8, 0.5), (1, 0.125), (8, 0.25)):
        tally.count_batch(size, seconds)
    assert tally.batches == {8: (2, 0.75), 1: (1, 0.125)}


def test_what_was_told_does_not_change_afterwards() -> None:
    tally = Tally()
    tally.count_batch(1, 0.5)
    told = tally.batches
    tally.count_batch(1, 0.5)
    tally.count_batch(2, 0.5)
    assert told == {1: (1, 0.5)}


def test_statistics_are_of_one_version_of_one_model() -> None:
    metrics = Metrics()
    first, second = served_model("a-model", 1), served_model("a-model", 2)
    metrics.count_images(first, [answered(), failed()])
    metrics.batch_counter("a-model", 1)(4, 2.0)
    metrics.count_call("ModelInfer", "a-model", "1", "OK", 3.0)
    counted, other = metrics.statistics(first), metrics.statistics(second)
    assert (counted.success, counted.fail, counted.images) == ((1, 3.0), (0, 0.0), 2)
    assert counted.batches == {4: (1, 2.0)}
    assert counted.last_at == pytest.approx(time.time(), abs=60)
    assert (other.success, other.fail, other.images, other.last_at) == ((0, 0.0), (0, 0.0), 0, 0.0)
    assert other.batches == {}


def test_stages_are_those_of_the_images_that_went_through_them() -> None:
    metrics = Metrics()
    model = served_model("a-model")
    metrics.count_images(model, [answered(0.5), answered(1.0), failed()])
    assert metrics.statistics(model).stages == {
        "decode": (2, 0.5),
        "queue": (2, 1.5),
        "inference": (2, 4.0),
        "postprocess": (2, 0.25),
    }


@pytest.mark.parametrize("method", ["Classify", "Detect", "Segment", "ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("code", ["OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL"])
def test_requests_of_every_method_that_answers_count(method: str, code: str) -> None:
    metrics = Metrics()
    model = served_model("a-model", 3)
    metrics.count_call(method, "a-model", "3", code, 0.5)
    counted = metrics.statistics(model)
    once, never = (1, 0.5), (0, 0.0)
    assert (counted.success, counted.fail) == ((once, never) if code == "OK" else (never, once))


@pytest.mark.parametrize("method", ["GetModel", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_questions_about_a_model_are_no_requests_to_it(method: str) -> None:
    metrics = Metrics()
    model = served_model("a-model", 3)
    metrics.count_call(method, "a-model", "3", "OK", 0.5)
    counted = metrics.statistics(model)
    assert (counted.success, counted.fail) == ((0, 0.0), (0, 0.0))


def test_a_model_that_comes_again_begins_anew() -> None:
    metrics = Metrics()
    model = served_model("a-model")
    metrics.count_images(model, [answered()])
    metrics.count_call("ModelInfer", "a-model", "1", "OK", 3.0)
    metrics.batch_counter("a-model", 1)(4, 2.0)
    metrics.forget_model("a-model", 1)
    counted = metrics.statistics(model)
    assert (counted.success, counted.images, counted.batches) == ((0, 0.0), 0, {})
    metrics.count_call("ModelInfer", "a-model", "1", "OK", 1.0)
    assert metrics.statistics(model).success == (1, 1.0)


def test_the_wire_has_nanoseconds_milliseconds_and_the_batches_by_size() -> None:
    told = statistics(
        served_model("a-model", 3),
        Statistics(
            success=(3, 0.5),
            fail=(1, 0.25),
            images=7,
            last_at=1234.5,
            stages={
                "decode": (6, 0.001),
                "queue": (5, 0.002),
                "inference": (4, 0.004),
                "postprocess": (3, 0.008),
            },
            batches={8: (2, 0.5), 1: (4, 0.125)},
        ),
    )
    assert (told.name, told.version) == ("a-model", "3")
    assert (told.last_inference, told.inference_count, told.execution_count) == (1_234_500, 7, 6)
    stats = told.inference_stats
    assert (stats.success.count, stats.success.ns) == (3, 500_000_000)
    assert (stats.fail.count, stats.fail.ns) == (1, 250_000_000)
    parts = [stats.compute_input, stats.queue, stats.compute_infer, stats.compute_output]
    assert [(part.count, part.ns) for part in parts] == [
        (6, 1_000_000),
        (5, 2_000_000),
        (4, 4_000_000),
        (3, 8_000_000),
    ]
    assert [(one.batch_size, one.compute_infer.count, one.compute_infer.ns) for one in told.batch_stats] == [
        (1, 4, 125_000_000),
        (8, 2, 500_000_000),
    ]
    assert sum(part.byte_size for part in told.memory_usage) == 1000


def test_a_model_that_has_done_nothing_is_told_as_such() -> None:
    model = served_model("a-model")
    told = statistics(model, Metrics().statistics(model))
    assert (told.last_inference, told.inference_count, told.execution_count) == (0, 0, 0)
    assert told.inference_stats.success == pb.StatisticDuration()
    assert not told.batch_stats


def test_what_several_processes_have_counted_adds_up() -> None:
    one = Statistics((1, 0.5), (2, 0.25), 3, 10.0, {"queue": (3, 1.0), "decode": (1, 0.5)}, {1: (1, 0.5)})
    other = Statistics((2, 1.0), (0, 0.0), 4, 9.0, {"queue": (1, 0.5)}, {1: (2, 1.0), 4: (1, 2.0)})
    assert summed([one]) == one
    assert summed([one, other]) == Statistics(
        (3, 1.5), (2, 0.25), 7, 10.0, {"queue": (4, 1.5), "decode": (1, 0.5)}, {1: (3, 1.5), 4: (1, 2.0)}
    )
