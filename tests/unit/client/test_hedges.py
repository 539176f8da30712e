"""What a second request beside the first does."""

import asyncio
import threading

import grpc
import pytest
from retinue.v1 import image_pb2
from retinue.v1 import vision_service_pb2 as pb

from retinue_client import AsyncClient, Client, DeadlineExceededError, InvalidRequestError, Retries

Code = grpc.StatusCode
SOON = Retries(first_delay_seconds=0.001)
HEDGED = Retries(hedge_after_seconds=0.05)


def hold_the_first(server):
    """Has a server answer every request but the first, which it holds until it is given up.

    Returns:
        What was asked, and what is set when that was given up.
    """
    seen, ended = [], threading.Event()

    def on_request(_request, context):
        seen.append(context)
        if len(seen) == 1:
            context.add_callback(ended.set)
            assert ended.wait(20)

    server.service.on_request = on_request
    return seen, ended


def test_a_request_without_an_answer_is_sent_a_second_time_and_the_first_answer_counts(ask, server):
    """Off by default; the slow one is cancelled."""
    seen, ended = hold_the_first(server)
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
    seen, _ = hold_the_first(server)
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
