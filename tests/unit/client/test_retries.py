"""What is sent again, when, and how often; and what is not."""

import asyncio
import threading
import time
from itertools import pairwise

import grpc
import pytest

from retinue_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    ServerError,
    ServerUnreachableError,
    UnavailableError,
)
from retinue_client._retries import Budget

Code = grpc.StatusCode
SOON = Retries(first_delay_seconds=0.001)


@pytest.mark.parametrize(
    ("code", "reason", "retry_after_seconds"),
    [
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.002),
        (Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", 0.002),
        (Code.RESOURCE_EXHAUSTED, "TOKEN_TOO_FAST", 0.002),
        (Code.UNAVAILABLE, "DRAINING", None),
        (Code.UNAVAILABLE, "LOADING", None),
        (Code.UNAVAILABLE, "MODEL_UNREADY", None),
        (Code.UNAVAILABLE, None, None),
        (Code.CANCELLED, None, None),
    ],
)
def test_what_may_get_better_is_sent_again(ask, server, failure, code, reason, retry_after_seconds):
    server.service.failures.append(failure(code, "Not now.", reason, retry_after_seconds))
    assert ask("classify", b"x", client={"retries": SOON}).best.label == "x"
    assert len(server.service.requests) == 2


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequestError),
        (Code.INTERNAL, "MODEL_HUNG", ServerError),
        (Code.INTERNAL, "ENGINE_FAILED", ServerError),
        (Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED", DeadlineExceededError),
        # Of something on the way that says neither why nor when to come back.
        (Code.RESOURCE_EXHAUSTED, None, OverloadedError),
    ],
)
def test_what_cannot_get_better_is_sent_once(ask, server, failure, code, reason, kind):
    server.service.failures += [failure(code, "Never.", reason)] * 2
    with pytest.raises(kind):
        ask("classify", b"x", client={"retries": SOON})
    assert len(server.service.requests) == 1


def test_a_request_is_sent_so_often_and_then_fails_with_what_was_said_last(ask, server, failure):
    server.service.failures += [failure(Code.UNAVAILABLE, f"No {place}.", "LOADING") for place in range(9)]
    with pytest.raises(UnavailableError, match=r"No 2\."):
        ask("classify", b"x", client={"retries": Retries(max_attempts=3, first_delay_seconds=0.001)})
    assert len(server.service.requests) == 3


def test_a_request_that_ends_servers_is_not_sent_to_all_of_them(ask, server, failure):
    server.service.failures += [failure(Code.UNAVAILABLE, "Socket closed")] * 9
    with pytest.raises(UnavailableError, match="lost during the call"):
        ask("classify", b"x", client={"retries": SOON})
    assert len(server.service.requests) == 2


def test_each_request_of_a_long_list_is_sent_again_for_itself(ask, server, failure):
    images = [f"image {place}".encode() for place in range(6)]
    server.service.failures += [failure(Code.UNAVAILABLE, "No.", "DRAINING")] * 3
    outcomes = ask("classify", images, client={"retries": SOON, "max_request_images": 2})
    assert [outcome.best.label for outcome in outcomes] == [image.decode() for image in images]
    assert len(server.service.requests) == 6


def test_a_client_that_is_told_when_to_come_back_comes_then(ask, server, failure):
    arrived = []
    server.service.on_request = lambda *_: arrived.append(time.monotonic())
    full = failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.3)

    def refuse_once(_request, context):
        arrived.append(time.monotonic())
        if len(arrived) == 1:
            full.abort(context)

    server.service.on_request = refuse_once
    ask("classify", b"x", client={"retries": SOON})
    assert arrived[1] - arrived[0] >= 0.3


def test_a_server_that_says_soon_each_time_is_given_longer_and_longer(ask, server, failure):
    arrived = []

    def refuse(_request, context):
        arrived.append(time.monotonic())
        if len(arrived) < 4:
            failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.001).abort(context)

    server.service.on_request = refuse
    ask("classify", b"x", client={"retries": Retries(first_delay_seconds=0.05)})
    waits = [later - sooner for sooner, later in pairwise(arrived)]
    assert all(wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True))


@pytest.mark.parametrize(
    ("retry_after_seconds", "timeout_seconds"), [(20.0, 60.0), (3.0, 2.0), (86_400.0, None)]
)
def test_nobody_waits_for_what_comes_too_late(ask, server, failure, retry_after_seconds, timeout_seconds):
    """Neither beyond the deadline nor for ever: the refusal itself is the answer, at once."""
    refusal = failure(Code.RESOURCE_EXHAUSTED, "Full.", "TOKEN_TOO_FAST", retry_after_seconds)
    server.service.failures.append(refusal)
    began = time.monotonic()
    with pytest.raises(OverloadedError) as caught:
        ask("classify", b"x", client={"retries": SOON, "timeout_seconds": timeout_seconds})
    assert caught.value.retry_after_seconds == pytest.approx(retry_after_seconds)
    assert time.monotonic() - began < 2
    assert len(server.service.requests) == 1


def test_the_deadline_is_that_of_all_tries_together_and_reaches_the_server(ask, server, failure):
    left = []

    def refuse_twice(_request, context):
        left.append(context.time_remaining())
        if len(left) < 3:
            failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.4).abort(context)

    server.service.on_request = refuse_twice
    ask("classify", b"x", timeout_seconds=2, client={"retries": SOON})
    # On the wire gRPC rounds what is left up, by some hundredths.
    first, second, third = left
    assert second < 1.8 <= first <= 2
    assert third < 1.4


def test_models_are_listed_again_and_not_loaded_again(ask, server, failure):
    server.service.failures.append(failure(Code.UNAVAILABLE, "No.", "LOADING"))
    assert ask("list_models", client={"retries": SOON})
    # The fake has no such call, and who is not there is not asked twice.
    server.stop()
    began = time.monotonic()
    slow = Retries(first_delay_seconds=30, longest_delay_seconds=30)
    with pytest.raises(ServerUnreachableError):
        ask("load_model", "m", client={"retries": slow})
    assert time.monotonic() - began < 20


def test_a_server_that_fails_on_and_on_gets_few_requests_twice(server, failure):
    """Ten at once, and then one for each ten that were answered."""
    retries = Retries(first_delay_seconds=0, burst=10, tokens_per_answer=0.1)
    with Client(server.address, retries=retries) as client:
        server.service.failures += [failure(Code.UNAVAILABLE, "No.", "LOADING")] * 1000
        for _ in range(50):
            with pytest.raises(UnavailableError):
                client.classify(b"x")
        assert len(server.service.requests) == 50 + 10
        server.service.failures.clear()
        for _ in range(20):
            client.classify(b"x")
        server.service.failures += [failure(Code.UNAVAILABLE, "No.", "LOADING")] * 1000
        server.service.requests.clear()
        for _ in range(50):
            with pytest.raises(UnavailableError):
                client.classify(b"x")
        assert len(server.service.requests) == 50 + 2


def test_a_budget_never_has_more_than_its_burst():
    budget = Budget(Retries(burst=2, tokens_per_answer=0.5))
    for _ in range(10):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    assert not budget.full
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()


def test_closing_a_client_ends_the_wait_before_the_next_try(server, failure):
    server.service.failures.append(failure(Code.UNAVAILABLE, "No.", "LOADING"))
    client = Client(server.address, retries=Retries(first_delay_seconds=30, longest_delay_seconds=30))
    outcome = []

    def call():
        with pytest.raises(UnavailableError, match="the client was closed"):
            client.classify(b"x")
        outcome.append("told")

    caller = threading.Thread(target=call)
    caller.start()
    while not server.service.requests:
        time.sleep(0)
    client.close()
    caller.join(timeout=20)
    assert outcome == ["told"]


async def test_closing_an_async_client_ends_the_wait_before_the_next_try(server, failure):
    server.service.failures.append(failure(Code.UNAVAILABLE, "No.", "LOADING"))
    client = AsyncClient(server.address, retries=Retries(first_delay_seconds=30, longest_delay_seconds=30))
    call = asyncio.create_task(client.classify(b"x"))
    while not server.service.requests:
        await asyncio.sleep(0)
    await client.close()
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError, match="the client was closed"):
            await call


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"first_delay_seconds": -1},
        {"burst": -1},
        {"tokens_per_answer": float("nan")},
        {"hedge_after_seconds": -0.1},
    ],
)
def test_retries_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 1|negative"):
        Retries(**wrong)
