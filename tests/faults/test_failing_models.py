"""A model that fails costs its own batch, and nobody else anything."""

import re

import grpc
import httpx
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.calls import Connection, flat, refused, refused_image
from tests.metrics_page import MetricsPage, wait_until
from tests.server_process import ServerProcess

_MODEL = "failing-classifier"
_GOOD, _FAILS = flat(200, 0, 0), flat(255)
_ID = re.compile(r"the server logged it as ([0-9a-f]{16})\.$")


def _error_id(message: str) -> str:
    found = _ID.search(message)
    assert found is not None, message
    return found.group(1)


def _logged(server: ServerProcess, message: str) -> dict[str, object]:
    """The event that was logged under the id in a message."""
    error_id = _error_id(message)

    def found() -> list[dict[str, object]]:
        return [event for event in server.events if event.get("error_id") == error_id]

    wait_until(lambda: bool(found()), "the log")
    (event,) = found()
    assert event["level"] == "error"
    return event


def test_a_failing_batch_is_internal_and_the_log_says_why(
    connection: Connection, fault_server: ServerProcess
) -> None:
    before = MetricsPage(fault_server.http_url)
    refusal = refused(lambda: connection.classify(_FAILS, model=_MODEL))
    assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
    assert "bounds" not in refusal.message

    event = _logged(fault_server, refusal.message)
    assert event["event"] == "batch_failed"
    assert event["model"] == f"{_MODEL}/1"
    assert "out of data bounds" in str(event["exception"])

    after = MetricsPage(fault_server.http_url)
    calls = {"method": "Classify", "model": _MODEL, "code": "INTERNAL"}
    assert (
        after.total("retinue_requests_total", **calls) - before.total("retinue_requests_total", **calls) == 1
    )
    images = {"model": _MODEL, "outcome": "failed"}
    assert after.total("retinue_images_total", **images) - before.total("retinue_images_total", **images) == 1
    assert httpx.get(f"{fault_server.http_url}/readyz").status_code == 200
    assert httpx.get(f"{fault_server.http_url}/livez").status_code == 200


def test_batches_before_and_after_the_failing_one_are_answered(connection: Connection) -> None:
    largest_batch = connection.get_model(_MODEL).execution.max_batch_size
    images = [*[_GOOD] * largest_batch, *[_FAILS] * largest_batch, *[_GOOD] * largest_batch]
    outcomes = connection.classify(*images, model=_MODEL, top_k=1).outcomes
    thirds = [outcomes[first : first + largest_batch] for first in range(0, len(images), largest_batch)]
    for outcome in (*thirds[0], *thirds[2]):
        assert outcome.result.classes[0].label == "red"
    refusals = [refused_image(outcome) for outcome in thirds[1]]
    assert {refusal.code for refusal in refusals} == {"INTERNAL"}
    # They were one batch, so they have one entry in the log.
    assert len({_error_id(refusal.message) for refusal in refusals}) == 1


def test_other_models_answer_while_one_fails_again_and_again(connection: Connection) -> None:
    failing = [
        connection.vision.Classify.future(pb.ClassifyRequest(model=_MODEL, images=[_FAILS]))
        for _ in range(20)
    ]
    good = [
        connection.vision.Classify.future(pb.ClassifyRequest(model="colour-classifier", images=[_GOOD]))
        for _ in range(20)
    ]
    for call in good:
        assert call.result().outcomes[0].result.classes[0].label == "red"
    for call in failing:
        assert call.exception().code() is grpc.StatusCode.INTERNAL
    assert connection.classify(_GOOD, model=_MODEL).outcomes[0].result.classes[0].label == "red"


def test_images_that_a_model_fails_on_do_not_take_it_from_others(
    connection: Connection, fault_server: ServerProcess
) -> None:
    probed = {"event": "model_state", "model": f"{_MODEL}/1", "reason": "probe_answered"}

    def was_probed() -> bool:
        return any(probed.items() <= event.items() for event in fault_server.events)

    def fail() -> bool:
        refusal = refused(lambda: connection.classify(_FAILS, model=_MODEL))
        assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
        return was_probed()

    wait_until(fail, "a reason to probe the model")
    assert connection.classify(_GOOD, model=_MODEL).outcomes[0].result.classes[0].label == "red"
    assert MetricsPage(fault_server.http_url).value("retinue_model_ready", model=_MODEL) == 1


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_model_that_answers_with_a_class_it_does_not_have(
    task: str, connection: Connection, fault_server: ServerProcess
) -> None:
    ask = {"detect": connection.detect, "segment": connection.segment}[task]
    model = f"lying-{task}or" if task == "detect" else "lying-segmenter"
    red, blue = ask(flat(255, 0, 0), flat(0, 0, 255), model=model).outcomes
    assert red.HasField("result")
    refusal = refused_image(blue)
    assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
    assert "class outside of its" in refusal.message
    event = _logged(fault_server, refusal.message)
    assert (event["event"], event["model"]) == ("image_failed", f"{model}/1")


@pytest.mark.parametrize(
    "model",
    [
        "nan-classifier",
        "sevenfold-classifier",
        "negative-classifier",
        "nan-detector",
        "sevenfold-detector",
        "boundless-detector",
    ],
)
def test_a_model_whose_numbers_are_no_probabilities_or_boxes(
    model: str, connection: Connection, fault_server: ServerProcess
) -> None:
    def failed() -> float:
        return MetricsPage(fault_server.http_url).total("retinue_images_total", model=model, outcome="failed")

    before = failed()
    ask = connection.detect if model.endswith("detector") else connection.classify
    refusal = refused(lambda: ask(flat(255, 0, 0), model=model))
    assert failed() - before == 1
    assert (refusal.code, refusal.reason) == ("INTERNAL", "ENGINE_FAILED")
    assert "its bundle is broken" in refusal.message
    event = _logged(fault_server, refusal.message)
    assert (event["event"], event["model"]) == ("image_failed", f"{model}/1")
    assert "its bundle is broken" in str(event["reason"])
