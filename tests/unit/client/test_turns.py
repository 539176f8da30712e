"""Which server is asked next: those that take nothing are passed over."""

import grpc
import pytest

from retinue_client import Client, RetinueError, Retries
from retinue_client._turns import Turns

Code = grpc.StatusCode


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
