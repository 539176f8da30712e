"""What must hold when everything has come to rest: the core's accounts are those of the schedule, and balanced."""

import math

from tests.fuzz.ailing_models import Model
from tests.fuzz.watched_core import WatchedBatcher

from retinue_server.batching.engine import Engine
from retinue_server.batching.recovery import Recovery, State, taken
from retinue_server.batching.tickets import BatchEnd


def check_no_idle_thread(engine: Engine) -> None:
    """No thread idles while it could run something."""
    if engine.healthy and not engine._stopping and engine.idle:
        assert all(queue.priority is None for queue in engine._batchers), "a thread idles, and a batch waits"


def check_queue(queue: WatchedBatcher) -> None:
    """Nothing waits and nothing runs."""
    for fault in queue.faults:
        raise fault
    assert len(queue) == queue.requested == 0
    assert all(
        not level.size and not level.callers and not queue._queue.waiting(priority)
        for priority, level in queue._queue._levels.items()
    )
    assert not queue._runs
    assert not queue.begun
    assert queue.cost.learned == queue.counted == queue.answered


def check_engine(engine: Engine, queues: list[WatchedBatcher]) -> None:
    """Each thread idles, and what they did was counted."""
    assert not engine._running
    assert engine.idle == engine.instances == len(engine._threads)
    usage = engine.usage()
    assert usage.waiting == 0
    assert usage.batches == {end: sum(queue.ends[end] for queue in queues) for end in BatchEnd}
    assert math.isclose(usage.busy_seconds, sum(queue.busy_seconds for queue in queues), abs_tol=1e-6)
    died = any(thread.error for thread in engine._threads)  # type: ignore[attr-defined]
    assert engine.healthy == (not died)
    if engine.healthy and not engine._stopping:
        assert all(thread.is_alive() for thread in engine._threads), "an engine has a thread too few"


def check_model(model: Model, queue: WatchedBatcher) -> None:
    """Its networks are closed but for the one that it has and those that a lost thread is in."""
    assert max(model.ran.values(), default=1) == 1, "an item ran twice"
    runs = queue._runs
    closed = [network for network in model.networks if network.closed]
    if model.is_closing:
        assert len(closed) == len(model.networks), "a network stays open of a model that was unloaded"
    else:
        opened = {tenure.backend for tenure in (runs._current, *runs._former) if tenure is not None}
        assert opened == set(model.networks) - set(closed)
        used = {batch.tenure for batch in queue.lost}
        assert used.issuperset(runs._former), "a network stays open that nothing will use"
        assert all(tenure.runs for tenure in runs._former)
    if queue.recovery is not None:
        # What a lost thread is in counts as taken, closed or not.
        assert model.told_closed == len(closed) - sum(tenure.closed for tenure in runs._former)
        assert queue.recovery.lost_threads == len(queue.lost)
        assert queue.recovery.hung == queue.hung
        if not model.is_closing:
            _check_state(queue.recovery, queue)


def _check_state(recovery: Recovery, queue: WatchedBatcher) -> None:
    has_lost_most = recovery.lost_threads >= recovery.limits.lost_threads
    assert has_lost_most is (recovery.state is State.GIVEN_UP)
    takes_items = taken(recovery.state)
    assert takes_items is (queue.refusal is None)
    assert takes_items is queue.takes_items, "nobody was told of a change"
