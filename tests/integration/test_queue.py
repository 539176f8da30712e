"""Full queues, deadlines and callers who leave."""

from collections.abc import Iterator

import grpc
import pytest
from retinue.v1 import vision_service_pb2 as pb
from tests.busy import SLOW_MODEL, engine_held
from tests.calls import Connection, flat, refused
from tests.integration.conftest import SMALL_QUEUE_IMAGES
from tests.metrics_page import MetricsPage, wait_until, waiting_images
from tests.server_process import ServerProcess

_MODEL = "colour-classifier"
_RED = flat(255, 0, 0)


@pytest.fixture(autouse=True)
def _still_answering(small: Connection, small_server: ServerProcess) -> Iterator[None]:
    """Whatever a test does, the server answers afterwards and nothing is left in its queues."""
    yield
    (outcome,) = small.classify(_RED, model=_MODEL).outcomes
    assert outcome.result.classes[0].label == "red"
    assert waiting_images(small_server.http_url, _MODEL) == 0
    assert waiting_images(small_server.http_url, SLOW_MODEL) == 0


def _request(*images: object) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model=_MODEL, images=images)  # type: ignore[arg-type]


def _images_run(server: ServerProcess) -> float:
    """How many images of the fast model the engine has run so far."""
    return MetricsPage(server.http_url).value("retinue_batch_size_sum", model=_MODEL)


def _calls_ended(server: ServerProcess, code: str) -> float:
    return MetricsPage(server.http_url).total(
        "retinue_requests_total", method="Classify", model=_MODEL, code=code
    )


def test_a_full_queue_refuses_what_does_not_fit_and_answers_the_rest(
    small: Connection, small_server: ServerProcess
) -> None:
    with engine_held(small, small_server):
        full = small.vision.Classify.future(_request(*[_RED] * SMALL_QUEUE_IMAGES))
        wait_until(
            lambda: waiting_images(small_server.http_url, _MODEL) == SMALL_QUEUE_IMAGES, "a full queue"
        )
        refusal = refused(lambda: small.classify(_RED, model=_MODEL))
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert refusal.retry_after_seconds is not None
    assert 0 < refusal.retry_after_seconds < 60
    assert f"{SMALL_QUEUE_IMAGES} of {SMALL_QUEUE_IMAGES} images" in refusal.message
    assert "retry in" in refusal.message
    outcomes = full.result().outcomes
    assert [outcome.result.classes[0].label for outcome in outcomes] == ["red"] * SMALL_QUEUE_IMAGES
    # Who waits is told for how long.
    assert all(outcome.timing.queue_us > outcome.timing.decode_us for outcome in outcomes)


def test_a_request_larger_than_the_queue_is_refused_even_when_idle(small: Connection) -> None:
    refusal = refused(lambda: small.classify(*[_RED] * (SMALL_QUEUE_IMAGES + 1), model=_MODEL))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "TOO_MANY_IMAGES")
    assert "split it" in refusal.message


def test_a_caller_who_leaves_takes_its_images_out_of_the_queue(
    small: Connection, small_server: ServerProcess
) -> None:
    run_before = _images_run(small_server)
    cancelled_before = _calls_ended(small_server, "CANCELLED")
    with engine_held(small, small_server):
        leaving = small.vision.Classify.future(_request(*[_RED] * 5))
        staying = small.vision.Classify.future(_request(flat(0, 0, 255)))
        wait_until(lambda: waiting_images(small_server.http_url, _MODEL) == 6, "six images to wait")
        leaving.cancel()
        wait_until(lambda: waiting_images(small_server.http_url, _MODEL) == 1, "five to leave")
    assert staying.result().outcomes[0].result.classes[0].label == "blue"
    wait_until(lambda: _calls_ended(small_server, "CANCELLED") == cancelled_before + 1, "it to be counted")
    wait_until(lambda: _images_run(small_server) == run_before + 1, "the one that stayed to be counted")


def test_a_batch_whose_callers_have_left_is_stopped(small: Connection, small_server: ServerProcess) -> None:
    def slow_batches() -> float:
        return MetricsPage(small_server.http_url).value("retinue_batch_size_count", model=SLOW_MODEL)

    run_before = slow_batches()
    with engine_held(small, small_server):
        pass
    # A batch that is counted before this one has answered somebody.
    small.classify(_RED, model=_MODEL)
    assert slow_batches() == run_before
    small.classify(flat(0), model=SLOW_MODEL)
    wait_until(lambda: slow_batches() == run_before + 1, "the slow model to answer again")


def test_a_high_priority_is_answered_before_what_waited_longer(
    small: Connection, small_server: ServerProcess
) -> None:
    with engine_held(small, small_server):
        low, high = (
            small.vision.Classify.future(
                pb.ClassifyRequest(model=SLOW_MODEL, images=[flat(255)], priority=priority)
            )
            for priority in (pb.PRIORITY_LOW, pb.PRIORITY_HIGH)
        )
        assert high.result(timeout=30).outcomes[0].HasField("result")
        assert not low.done()
        low.cancel()


def test_a_call_whose_deadline_passes_in_the_queue_is_never_run(
    small: Connection, small_server: ServerProcess
) -> None:
    run_before = _images_run(small_server)
    with engine_held(small, small_server) as slow:
        with pytest.raises(grpc.RpcError) as raised:
            small.vision.Classify(_request(_RED), timeout=0.1)
        # The second when the server saw at once that it would be too late.
        assert raised.value.code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        assert not slow.done()
        wait_until(lambda: waiting_images(small_server.http_url, _MODEL) == 0, "it to leave the queue")
    small.classify(_RED, model=_MODEL)
    # Only this last one has run.
    wait_until(lambda: _images_run(small_server) == run_before + 1, "one image to be counted")


@pytest.mark.parametrize("seconds", [0, 1e-9, 1e-4])
def test_a_tiny_deadline_is_exceeded_and_harms_nobody(
    seconds: float, small: Connection, small_server: ServerProcess
) -> None:
    # gRPC rounds deadlines up to milliseconds, in which an idle server may well answer.
    with engine_held(small, small_server), pytest.raises(grpc.RpcError) as raised:
        small.vision.Classify(_request(_RED), timeout=seconds)
    assert raised.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_deadline_that_cannot_be_met_is_refused_at_once(
    small: Connection, small_server: ServerProcess
) -> None:
    # The server learns what an image of the slow model costs.
    for _ in range(10):
        small.classify(flat(128), model=SLOW_MODEL)
    with engine_held(small, small_server, waiting=20) as slow:
        # All of them come before it.
        request = pb.ClassifyRequest(model=_MODEL, images=[_RED], priority=pb.PRIORITY_LOW)
        refusal = refused(lambda: small.vision.Classify(request, timeout=0.5))
        assert not slow.done()
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "DEADLINE_TOO_SHORT")
    assert refusal.retry_after_seconds is not None
    assert refusal.retry_after_seconds > 0.4
    assert "allow more time or retry" in refusal.message


def test_a_patient_caller_is_answered_after_waiting(small: Connection, small_server: ServerProcess) -> None:
    with engine_held(small, small_server, waiting=1):
        response = small.vision.Classify(_request(flat(0, 255, 0)), timeout=60)
    assert response.outcomes[0].result.classes[0].label == "green"
    assert response.outcomes[0].timing.queue_us > 0
