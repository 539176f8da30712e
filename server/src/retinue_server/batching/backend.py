"""What runs the batches of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from retinue_server.batching.tickets import Stop
from retinue_server.errors import RetinueError

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Backend(Protocol[Item, Result]):
    """What runs batches."""

    @property
    def max_batch_size(self) -> int:
        """The most items of one batch."""
        ...

    def run(self, items: Sequence[Item], stop: Stop, *, alone: bool) -> Sequence[Result | RetinueError]:
        """Answers each item, in order; an error answers one item and leaves the others theirs. Blocks.

        Args:
            items: From 1 to `max_batch_size`.
            stop: Requested when nobody waits for the answers any more; then the run may end with any exception.
            alone: Whether it may take the whole machine: a lone item where nothing else runs or waits, nor has of
                late; and any batch of a plan that says so.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; nothing is run any more."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How the batches of a model share the machine under load.

    Attributes:
        most_running: How many run at once; 0 for as many as the engine has threads.
        all_cores: Whether each takes the whole machine.
    """

    most_running: int = 0
    all_cores: bool = False


EQUAL_SHARES = Plan()


@dataclass(slots=True, eq=False)
class Tenure:
    """The time in which a backend runs a model's batches.

    Attributes:
        backend: The backend.
        runs: How many batches are in it now, those that hang included.
        closing: Whether somebody closes the backend, or has.
        closed: Whether it is closed, also where a batch hangs in it.
    """

    backend: Backend[Any, Any]
    runs: int = 0
    closing: bool = False
    closed: bool = False
