"""A deadline of the code around bounds the calls within it, and reaches the server as what is left."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from retinue_client import AsyncClient, Client, DeadlineExceededError, deadline, remaining_seconds


@pytest.fixture
def left(server):
    """What the server was given for each request, seconds or None."""
    seen = []
    server.service.on_request = lambda _request, context: seen.append(context.time_remaining())
    return seen


def test_calls_within_a_deadline_get_what_is_left(ask, left):
    with deadline(5):
        ask("classify", b"x")
        ask("list_models")
    ask("classify", b"x")
    # gRPC rounds what is left up, by some hundredths.
    assert all(4 < seconds < 5.5 for seconds in left[:2])
    assert left[2] > 50


def test_the_sooner_one_holds(ask, left):
    with deadline(50):
        ask("classify", b"x", timeout_seconds=5)
        with deadline(5):
            ask("classify", b"x")
            with deadline(40):
                ask("classify", b"x")
        ask("classify", b"x")
    assert all(4 < seconds < 5.5 for seconds in left[:3])
    assert 40 < left[3] < 55


def test_none_bounds_nothing(ask, left):
    with deadline(None):
        assert remaining_seconds() is None
        ask("classify", b"x")
    with deadline(5), deadline(None):
        ask("classify", b"x")
    assert left[0] > 50
    assert 4 < left[1] < 5.5


@pytest.mark.parametrize("seconds", [0, -1.0, float("-inf")])
def test_where_nothing_is_left_nothing_is_sent(ask, left, seconds):
    with deadline(seconds):
        assert remaining_seconds() == 0
        with pytest.raises(DeadlineExceededError, match="nothing was sent"):
            ask("classify", b"x")
    assert left == []
    assert remaining_seconds() is None


# The second is what gRPC says in a handler whose caller has no deadline.
@pytest.mark.parametrize("seconds", [float("inf"), 9.2e18])
def test_an_endless_deadline_is_none(ask, left, seconds):
    with deadline(seconds):
        ask("classify", b"x", client={"timeout_seconds": None})
    assert left[0] > 1e9


def test_a_long_list_ends_with_the_deadline(ask, left, server):
    """All its requests share what is left, however long each of them may take."""

    def images():
        yield b"first"
        yield b"second"
        while remaining_seconds():
            time.sleep(0.01)
        yield b"too late"

    with deadline(0.3), pytest.raises(DeadlineExceededError):
        ask("classify", images(), client={"max_request_images": 1})
    assert len(left) <= 2


def test_a_handler_hands_on_what_is_left_to_the_next_server(server, left):
    """As a service does that asks Retinue in order to answer its own callers."""

    def hand_on(request, context):
        seconds = context.time_remaining()
        left.append(seconds)
        if request.model == "outer":
            with deadline(seconds), Client(server.address) as inner:
                inner.classify(b"x", model="inner")

    server.service.on_request = hand_on
    with Client(server.address) as client:
        client.classify(b"x", model="outer", timeout_seconds=5)
    assert len(left) == 2
    assert all(4 < seconds < 5.5 for seconds in left)


async def test_tasks_inherit_a_deadline_and_do_not_share_it(server, left):
    async with AsyncClient(server.address) as client:

        async def within(seconds):
            with deadline(seconds):
                await asyncio.sleep(0)
                await client.classify(b"x")

        with deadline(5):
            inherited = asyncio.create_task(client.classify(b"x"))
        await inherited
        await asyncio.gather(within(5), within(30))
    first, *others = left
    assert 4 < first < 5.5
    short, long = sorted(others)
    assert 4 < short < 5.5
    assert 25 < long < 33


def test_threads_have_deadlines_of_their_own():
    with deadline(5), ThreadPoolExecutor(1) as pool:
        assert pool.submit(remaining_seconds).result() is None
