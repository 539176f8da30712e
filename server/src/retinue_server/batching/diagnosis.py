"""What a batch says of its model's health: when it hangs, and when it has failed."""

from collections.abc import Sequence
from typing import Any

import structlog

from retinue_server.batching import origins
from retinue_server.batching.batch import Batch
from retinue_server.batching.recovery import Recovery
from retinue_server.errors import DeviceError, EngineError, OverloadedError, RetinueError

_log = structlog.get_logger(__name__)

# For a copy, which nobody makes again.
_RETRY_SECONDS = 0.05


def watch(recovery: Recovery, batch: Batch, expected_seconds: float, elapsed_seconds: float) -> bool:
    """Stops a batch that hangs. Called again and again while it runs, under the engine's lock.

    Args:
        recovery: Of its model.
        batch: The batch.
        expected_seconds: What it takes by what was measured.
        elapsed_seconds: Since the last time.

    Returns:
        Whether it does not stop, so that its thread is to be given up.
    """
    limits = recovery.limits
    if not limits.batch_seconds:
        return False
    if batch.watched_seconds is None:
        # It may have begun just now.
        batch.watched_seconds = 0.0
        return False
    batch.watched_seconds += elapsed_seconds
    over_seconds = batch.watched_seconds - limits.batch_may_take(expected_seconds)
    told = {"model": recovery.name, "batch_size": len(batch), "seconds": round(batch.watched_seconds, 3)}
    if over_seconds >= 0 and not batch.hung:
        batch.hung = True
        _log.error("batch_hung", **told)
        batch.stop.request()
        recovery.batch_hung()
    if over_seconds < limits.grace_seconds:
        return False
    _log.error("thread_lost", **told)
    return True


def judge(
    recovery: Recovery,
    batch: Batch,
    values: Sequence[Any],
    raised: type[BaseException] | None,
    *,
    slow: bool,
) -> bool:
    """Notes what a batch has come to. Called under the engine's lock.

    Args:
        recovery: Of its model.
        batch: The batch, which has ended.
        values: What its items get.
        raised: What it raised.
        slow: Whether it took far longer than by what was measured.

    Returns:
        Whether other models may have what has befallen this one.
    """
    if raised is not None and issubclass(raised, DeviceError):
        recovery.device_failed()
        return True
    if batch.is_probe:
        if raised is None:
            recovery.probe_answered()
        else:
            recovery.probe_failed()
    elif any(not isinstance(value, RetinueError) for value in values):
        recovery.batch_answered()
    elif batch.stop.requested:
        # That callers leave says nothing of the model, unless it is too slow for anybody to wait.
        if slow and not batch.hung:
            recovery.batch_failed()
    elif all(isinstance(value, EngineError) for value in values):
        recovery.batch_failed()
    return False


def failure(batch: Batch, name: str) -> RetinueError:
    """What the items of a batch get whose run has just raised.

    Args:
        batch: The batch.
        name: Of its model, for the log.
    """
    if batch.hung:
        return hung()
    if batch.stop.requested and batch.of_copies:
        return OverloadedError(
            "the copy gave way to a request.", retry_after_seconds=_RETRY_SECONDS, reason="GAVE_WAY"
        )
    if batch.stop.requested:
        return EngineError(
            "the run was stopped: no caller waited for it any more, or the server is shutting down."
        )
    return origins.failure(name, batch.jobs, event="probe_failed" if batch.is_probe else "batch_failed")


def hung() -> EngineError:
    """What the callers of a batch are told that has hung.

    It is not UNAVAILABLE, which clients try again by themselves: the same images may hang the next batch, too.
    """
    return EngineError(
        "the model ran far longer on this batch than it ever should, and was stopped; other images may do better.",
        reason="MODEL_HUNG",
    )
