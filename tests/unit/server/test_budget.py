import pytest

from retinue_server.errors import OverloadedError
from retinue_server.rpc.budget import ByteBudget, Holding


@pytest.fixture
def budget() -> ByteBudget:
    return ByteBudget(1000)


def holding(budget: ByteBudget, size: int) -> Holding:
    taken = Holding(budget)
    taken.hold_request(size)
    return taken


def test_what_is_more_than_is_left_is_refused_until_something_is_given_back(budget: ByteBudget) -> None:
    first = holding(budget, 600)
    with pytest.raises(OverloadedError) as refusal:
        holding(budget, 500)
    assert refusal.value.reason == "TOO_MANY_BYTES_IN_FLIGHT"
    assert "hold 600 bytes" in refusal.value.message
    assert "the 500 bytes of this one would exceed 1000" in refusal.value.message
    holding(budget, 400)
    first.release()
    holding(budget, 600)


def test_a_reply_counts_beside_its_request_and_is_counted_anew_when_its_size_is_known(
    budget: ByteBudget,
) -> None:
    first = holding(budget, 100)
    first.hold_reply(800)
    other = holding(budget, 100)
    with pytest.raises(OverloadedError):
        other.hold_reply(1)
    first.hold_reply(300)
    other.hold_reply(500)
    with pytest.raises(OverloadedError):
        holding(budget, 1)


def test_a_call_beside_which_nothing_is_held_gets_whatever_it_wants(budget: ByteBudget) -> None:
    alone = holding(budget, 1500)
    alone.hold_reply(1500)
    with pytest.raises(OverloadedError):
        holding(budget, 1)
    # It may always ask for less.
    alone.hold_reply(0)
