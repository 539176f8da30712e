"""Where items wait, as those see it who bring them."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.errors import UnavailableError


class Queue(Protocol):
    """A `Batcher`, or what leads to one in another process."""

    def __len__(self) -> int:
        """Items that wait."""
        ...

    @property
    def refusal(self) -> UnavailableError | None:
        """Why nothing is taken; None where it is."""
        ...

    def check_room(self, count: int, *, caller: Hashable, priority: Priority, deadline: float | None) -> None:
        """Refuses what `submit` would refuse now, so that a caller need not make the items first."""
        ...

    async def submit(
        self,
        items: Sequence[Any],
        *,
        caller: Hashable,
        priority: Priority,
        deadline: float | None,
    ) -> list[Outcome[Any]]:
        """Waits for the outcomes of all items, in order."""
        ...
