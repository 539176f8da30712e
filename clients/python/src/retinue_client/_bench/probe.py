"""One question before all others, so that what cannot work is said at once."""

from retinue_client._bench.reply import reader
from retinue_client._bench.worker import Equipment
from retinue_client._errors import DeadlineExceededError, OverloadedError, RetinueError

_MOST_TRIES = 100


def probe(equipment: Equipment) -> None:
    """Makes sure that at least one of the requests can be answered at all.

    A server that is busy, or slower than the deadline, is what is to be measured, and no reason not to.

    Raises:
        RetinueError: Why the first of them has no answer, where none has one.
    """
    read = reader(equipment.task)
    first: RetinueError | None = None
    with equipment.connect() as wire:
        for request in equipment.requests[:_MOST_TRIES]:
            try:
                reply = read(wire.ask(request.body), request.images)
            except (OverloadedError, DeadlineExceededError):
                return
            except RetinueError as error:
                first = first or error
                break
            if reply.answered:
                return
            first = first or reply.errors[0]
    if first is not None:
        raise first
