"""The order in which waiting jobs run."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from itertools import takewhile

from retinue_server.batching.tickets import Job, Priority, Ticket


class _Caller:
    """What one caller has waiting, by request, the next one's turn first."""

    __slots__ = ("size", "tickets")

    def __init__(self) -> None:
        self.tickets: OrderedDict[Ticket, deque[Job]] = OrderedDict()
        self.size = 0


class _Level:
    """What waits in one priority, by caller, the next one's turn first."""

    __slots__ = ("callers", "size")

    def __init__(self) -> None:
        self.callers: OrderedDict[Hashable, _Caller] = OrderedDict()
        self.size = 0


class FairQueue:
    """Jobs that wait: the highest priority first; within it callers take turns, and so do the requests of a caller.

    So a request of 10,000 images delays others by one image for each of theirs, however many more it has. Not safe to
    use from several threads at once.
    """

    def __init__(self) -> None:
        self._levels = {priority: _Level() for priority in Priority}
        # Of all levels. Most requests find nothing that waits, and need not look into each.
        self._size = 0

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._size

    @property
    def priority(self) -> Priority | None:
        """That of the next job; None where none waits."""
        if not self._size:
            return None
        return next((priority for priority, level in self._levels.items() if level.size), None)

    def waiting(self, priority: Priority) -> int:
        """Jobs of one priority."""
        return self._levels[priority].size

    def waiting_before(self, priority: Priority) -> int:
        """Jobs of higher priorities."""
        if not self._size:
            return 0
        return sum(self._levels[higher].size for higher in takewhile(lambda one: one < priority, Priority))

    def waiting_of(self, caller: Hashable) -> int:
        """Jobs of one caller."""
        if not self._size:
            return 0
        found = (level.callers.get(caller) for level in self._levels.values())
        return sum(one.size for one in found if one is not None)

    def ahead_of(self, count: int, caller: Hashable, priority: Priority) -> int:
        """How many jobs would come before the last of a request, if nothing else came.

        Args:
            count: Jobs of the request.
            caller: Whose it is.
            priority: Its priority.
        """
        if not self._size:
            return 0
        level = self._levels[priority]
        own = level.callers.get(caller)
        own_ahead = 0 if own is None else sum(min(len(jobs), count) for jobs in own.tickets.values())
        turns = own_ahead + count
        others = sum(min(one.size, turns) for one in level.callers.values() if one is not own)
        return self.waiting_before(priority) + own_ahead + others

    def add(self, ticket: Ticket, jobs: Iterable[Job]) -> None:
        """Lets the jobs of a new request wait, at least one."""
        level = self._levels[ticket.priority]
        caller = level.callers.setdefault(ticket.caller, _Caller())
        waiting = caller.tickets[ticket] = deque(jobs)
        caller.size += len(waiting)
        level.size += len(waiting)
        self._size += len(waiting)

    def pop(self) -> Job:
        """Takes the next job.

        Raises:
            IndexError: None waits.
        """
        for level in self._levels.values():
            if level.size:
                break
        else:
            raise IndexError("no job waits")
        name, caller = next(iter(level.callers.items()))
        ticket, jobs = next(iter(caller.tickets.items()))
        job = jobs.popleft()
        level.size -= 1
        caller.size -= 1
        self._size -= 1
        if jobs:
            caller.tickets.move_to_end(ticket)
        else:
            del caller.tickets[ticket]
        if caller.size:
            level.callers.move_to_end(name)
        else:
            del level.callers[name]
        return job

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Lets jobs that were taken wait again: theirs are the next turns, in the order in which they were taken."""
        for job in reversed(list(jobs)):
            ticket = job.ticket
            level = self._levels[ticket.priority]
            caller = level.callers.setdefault(ticket.caller, _Caller())
            caller.tickets.setdefault(ticket, deque()).appendleft(job)
            caller.tickets.move_to_end(ticket, last=False)
            level.callers.move_to_end(ticket.caller, last=False)
            caller.size += 1
            level.size += 1
            self._size += 1

    def remove(self, ticket: Ticket) -> None:
        """Forgets what of a request still waits."""
        level = self._levels[ticket.priority]
        caller = level.callers.get(ticket.caller)
        jobs = None if caller is None else caller.tickets.pop(ticket, None)
        if caller is None or jobs is None:
            return
        caller.size -= len(jobs)
        level.size -= len(jobs)
        self._size -= len(jobs)
        if not caller.size:
            del level.callers[ticket.caller]
