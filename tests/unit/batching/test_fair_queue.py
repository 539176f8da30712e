import asyncio
from collections.abc import Iterator

import pytest

from retinue_server.batching.fair_queue import FairQueue
from retinue_server.batching.tickets import Job, Priority, Ticket


@pytest.fixture(autouse=True)
async def loop() -> None:
    """Tickets belong to a running loop."""
    asyncio.get_running_loop()


def wait(
    queue: FairQueue, name: str, count: int, caller: str, priority: Priority = Priority.NORMAL
) -> Ticket:
    ticket = Ticket(count, caller, priority, None)
    queue.add(ticket, [Job(f"{name}{number}", ticket, number, 0.0) for number in range(count)])
    return ticket


def taken(queue: FairQueue) -> Iterator[str]:
    while queue:
        yield queue.pop().item


async def test_callers_take_turns_however_many_items_each_has() -> None:
    queue = FairQueue()
    wait(queue, "a", 4, "alice")
    wait(queue, "b", 2, "bob")
    wait(queue, "c", 1, "carol")
    assert list(taken(queue)) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


async def test_the_requests_of_a_caller_take_turns_within_the_callers_turn() -> None:
    queue = FairQueue()
    wait(queue, "a", 2, "alice")
    wait(queue, "x", 2, "alice")
    wait(queue, "b", 2, "bob")
    assert list(taken(queue)) == ["a0", "b0", "x0", "b1", "a1", "x1"]


async def test_a_higher_priority_comes_first_and_is_told() -> None:
    queue = FairQueue()
    assert queue.priority is None
    wait(queue, "low", 1, "alice", Priority.LOW)
    wait(queue, "normal", 1, "alice")
    assert queue.priority is Priority.NORMAL
    wait(queue, "high", 2, "bob", Priority.HIGH)
    assert queue.priority is Priority.HIGH
    assert list(taken(queue)) == ["high0", "high1", "normal0", "low0"]


async def test_what_is_put_back_comes_next_in_its_order() -> None:
    queue = FairQueue()
    wait(queue, "a", 3, "alice")
    wait(queue, "b", 2, "bob")
    first = [queue.pop() for _ in range(4)]
    assert [job.item for job in first] == ["a0", "b0", "a1", "b1"]
    queue.put_back(first[1:])
    assert len(queue) == 4
    assert list(taken(queue))[:3] == ["b0", "a1", "b1"]


async def test_a_request_that_is_removed_leaves_the_others_in_place() -> None:
    queue = FairQueue()
    leaving = wait(queue, "a", 3, "alice")
    wait(queue, "x", 1, "alice")
    wait(queue, "b", 1, "bob")
    assert queue.pop().item == "a0"
    queue.remove(leaving)
    queue.remove(leaving)
    assert len(queue) == 2
    assert queue.waiting_of("alice") == 1
    assert sorted(taken(queue)) == ["b0", "x0"]
    assert queue.waiting_of("alice") == 0


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("caller", ["alice", "bob", "dora"])
@pytest.mark.parametrize("priority", list(Priority))
async def test_how_many_come_before_a_new_request_is_known_beforehand(
    count: int, caller: str, priority: Priority
) -> None:
    queue = FairQueue()
    wait(queue, "a", 3, "alice")
    wait(queue, "x", 2, "alice")
    wait(queue, "b", 1, "bob")
    wait(queue, "c", 4, "carol")
    wait(queue, "l", 2, "carol", Priority.LOW)
    wait(queue, "h", 1, "carol", Priority.HIGH)
    told = queue.ahead_of(count, caller, priority)
    wait(queue, "new", count, caller, priority)
    order = list(taken(queue))
    counted = order.index(f"new{count - 1}") - (count - 1)
    # A turn that is open when the request comes may go either way.
    assert counted <= told <= counted + 2


async def test_an_empty_queue_has_nothing_to_take() -> None:
    with pytest.raises(IndexError):
        FairQueue().pop()
