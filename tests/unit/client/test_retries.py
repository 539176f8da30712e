"""What is sent again, when, and how often; what is not; and what a second request beside the first does."""

import asyncio
import threading
import time
from itertools import pairwise

import grpc
import pytest
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RetinueError,
    Retries,
    ServerError,
    ServerUnreachableError,
    UnavailableError,
)
from retinue_client._retries import Budget
from retinue_client._turns import Turns

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


HEDGED = Retries(hedge_after_seconds=0.05)


def test_a_request_without_an_answer_is_sent_a_second_time_and_the_first_answer_counts(ask, server):
    """Off by default; the slow one is cancelled."""
    ended = threading.Event()
    seen = []

    def hold_the_first(_request, context):
        seen.append(context)
        if len(seen) == 1:
            context.add_callback(ended.set)
            assert ended.wait(20)

    server.service.on_request = hold_the_first
    assert ask("classify", b"x", timeout_seconds=10, client={"retries": HEDGED}).best.label == "x"
    assert ended.wait(20)
    assert len(seen) == 2
    seen.clear()
    ended.clear()
    with pytest.raises(DeadlineExceededError):
        ask("classify", b"x", timeout_seconds=0.3, client={"retries": SOON})
    assert len(seen) == 1


def test_a_long_list_is_hedged_request_by_request(ask, server):
    release = threading.Event()
    seen = []

    def hold_the_second(request, context):
        seen.append(request.images[0].encoded)
        if seen.count(b"1") == 1 and seen[-1] == b"1":
            context.add_callback(release.set)
            assert release.wait(20)

    server.service.on_request = hold_the_second
    outcomes = ask("classify", [b"0", b"1", b"2"], client={"retries": HEDGED, "max_request_images": 1})
    assert [outcome.best.label for outcome in outcomes] == ["0", "1", "2"]
    assert seen.count(b"1") == 2
    assert release.wait(20)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_the_time_until_a_hedge_begins_when_a_request_is_sent_and_not_when_it_is_waited_for(
    kind, server
):
    ended = threading.Event()
    seen = []

    def hold_the_first(_request, context):
        seen.append(context)
        if len(seen) == 1:
            context.add_callback(ended.set)
            assert ended.wait(20)

    server.service.on_request = hold_the_first
    client = kind(server.address, retries=Retries(hedge_after_seconds=1000))
    request = pb.ClassifyRequest(images=[image_pb2.Image(encoded=b"x")])
    sending = client._transport.prepare("Classify", request, 15)
    client._transport.begin(sending)
    while not seen:
        await asyncio.sleep(0)
    sending.begun -= 1000
    answer = client._transport.answer(sending)
    response = await answer if kind is AsyncClient else answer
    assert len(response.outcomes) == 1
    closing = client.close()
    if kind is AsyncClient:
        await closing


async def test_an_answer_that_is_there_already_is_not_hedged_however_late_it_is_taken(server):
    async with AsyncClient(server.address, retries=Retries(hedge_after_seconds=0)) as client:
        request = pb.ClassifyRequest(images=[image_pb2.Image(encoded=b"x")])
        sending = client._transport.prepare("Classify", request, 15)
        client._transport.begin(sending)
        await sending.call
        await client._transport.answer(sending)
    assert len(server.service.requests) == 1


def test_a_fast_answer_is_not_hedged(ask, server):
    ask("classify", b"x", client={"retries": Retries(hedge_after_seconds=20)})
    assert len(server.service.requests) == 1


def test_what_one_of_the_two_says_for_good_is_the_answer(ask, server, failure):
    ended = threading.Event()
    seen = []

    def hold_the_first(_request, context):
        seen.append(context)
        if len(seen) > 1:
            failure(Code.INVALID_ARGUMENT, "Never.", "INVALID_REQUEST").abort(context)
        context.add_callback(ended.set)
        assert ended.wait(20)

    server.service.on_request = hold_the_first
    with pytest.raises(InvalidRequestError, match="Never"):
        ask("classify", b"x", timeout_seconds=10, client={"retries": HEDGED})
    assert ended.wait(20)


def test_where_one_of_the_two_is_refused_the_other_is_waited_for(ask, server, failure):
    refused = threading.Event()
    seen = []

    def refuse_the_second(_request, context):
        seen.append(context)
        if len(seen) > 1:
            refused.set()
            failure(Code.RESOURCE_EXHAUSTED, "Full.", "QUEUE_FULL", 0.001).abort(context)
        assert refused.wait(20)

    server.service.on_request = refuse_the_second
    assert ask("classify", b"x", timeout_seconds=10, client={"retries": HEDGED}).best.label == "x"
    assert len(seen) == 2


def test_hedges_are_counted_as_what_is_sent_again(ask, server):
    """No token, no hedge; nor more than max_attempts."""
    for retries in (
        Retries(hedge_after_seconds=0.01, burst=0),
        Retries(hedge_after_seconds=0.01, max_attempts=1),
    ):
        server.service.requests.clear()
        server.service.hold = threading.Event()
        with pytest.raises(DeadlineExceededError):
            ask("classify", b"x", timeout_seconds=0.2, client={"retries": retries})
        server.service.hold.set()
        assert len(server.service.requests) == 1


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


def test_a_server_that_took_nothing_is_passed_over_and_then_tried_by_one():
    now = [100.0]
    turns = Turns(3, clock=lambda: now[0])
    assert [turns.next() for _ in range(4)] == [0, 1, 2, 0]
    turns.set_aside(1)
    assert [turns.next() for _ in range(4)] == [2, 2, 0, 2]
    now[0] += 1.5
    tried = [turns.next() for _ in range(6)]
    assert tried.count(1) == 1
    turns.answered(1)
    assert sorted(turns.next() for _ in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("code", "reason", "has_turns"),
    [
        (Code.NOT_FOUND, "MODEL_NOT_FOUND", True),
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", True),
        (Code.UNAVAILABLE, "LOADING", False),
        (Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED", False),
    ],
)
def test_a_server_that_refuses_takes_calls_all_the_same(start_server, failure, code, reason, has_turns):
    server = start_server()
    server.service.failures.append(failure(code, "No.", reason))
    port = server.address.rpartition(":")[2]
    with Client([f"localhost:{port}", "b.invalid:8001"], retries=Retries.none()) as client:
        turns = client._transport._turns
        turns.set_aside(0)
        turns.set_aside(1)
        with pytest.raises(RetinueError, match=r"No\."):
            client.classify(b"x", timeout_seconds=20)
        assert (turns.next(but=1), turns._aside_until[0] == 0) == (0, has_turns)


def test_where_none_takes_anything_they_are_asked_all_the_same():
    turns = Turns(2, clock=lambda: 1.0)
    turns.set_aside(0)
    turns.set_aside(1)
    assert {turns.next() for _ in range(4)} == {0, 1}
    assert turns.next(but=0) == 1
