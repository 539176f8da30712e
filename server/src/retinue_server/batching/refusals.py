"""Why a queue does not take items, and what their caller is told."""

from retinue_server.errors import OverloadedError, UnavailableError

# Of images that will just meet their deadline if all goes on as it does, one in twenty does not.
_CAUTION = 1.25


def check_room(count: int, *, own: int, waiting: int, capacity: int, retry_after_seconds: float) -> None:
    """Refuses items that do not fit.

    Args:
        count: Of them.
        own: Those of their caller that wait.
        waiting: Those of all callers.
        capacity: The most that may.
        retry_after_seconds: When there may be room.

    Raises:
        OverloadedError: They do not.
    """
    if own + count > capacity - waiting:
        raise OverloadedError(
            f"the model's queue holds {waiting} of {capacity} images, {own} of them this caller's, and a "
            f"caller may add no more than leaves others as much room: {count} are too many; retry in "
            f"{retry_after_seconds:.2f} s or send fewer at once.",
            retry_after_seconds=retry_after_seconds,
        )


def check_deadline(
    left_seconds: float, wait_seconds: float, run_seconds: float, *, retry_after_seconds: float
) -> None:
    """Refuses items whose deadline cannot be met.

    Args:
        left_seconds: Until then.
        wait_seconds: Until the last of them is begun.
        run_seconds: What they take then.
        retry_after_seconds: When it may be otherwise.

    Raises:
        OverloadedError: It cannot.
    """
    if _CAUTION * wait_seconds + run_seconds > left_seconds:
        raise OverloadedError(
            f"the deadline cannot be met: {wait_seconds:.3f} s of work are waiting, and the request takes "
            f"{run_seconds:.3f} s; allow more time or retry in {retry_after_seconds:.2f} s.",
            retry_after_seconds=retry_after_seconds,
            reason="DEADLINE_TOO_SHORT",
        )


def unloading() -> UnavailableError:
    """What is told of a model that goes."""
    return UnavailableError("the model is being unloaded; retry, or name another one.", reason="UNLOADING")
