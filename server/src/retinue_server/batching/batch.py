"""Items that run together."""

from collections.abc import Sequence

from retinue_server.batching.backend import Tenure
from retinue_server.batching.tickets import Job, Priority, Stop


class Batch:
    """Jobs that run together, or a probe: no jobs, to see whether the model still answers.

    Attributes:
        jobs: At least one, unless it is a probe.
        tenure: Of the backend that runs it.
        alone: As for `Backend.run`.
        stop: Likewise.
        watched_seconds: How long it runs, as far as somebody has watched; None where nobody has.
        hung: Whether it was stopped since that was too long.
    """

    __slots__ = ("alone", "hung", "jobs", "stop", "tenure", "watched_seconds")

    def __init__(self, jobs: Sequence[Job], tenure: Tenure) -> None:
        self.jobs = jobs
        self.tenure = tenure
        self.alone = False
        self.stop = Stop()
        self.watched_seconds: float | None = None
        self.hung = False

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def is_probe(self) -> bool:
        """Whether nobody waits for it."""
        return not self.jobs

    @property
    def of_copies(self) -> bool:
        """Whether nothing in it is more than a copy: what goes first comes first."""
        return bool(self.jobs) and self.jobs[0].ticket.priority is Priority.COPY

    def stop_if_abandoned(self) -> None:
        """Asks the run to end where no caller waits for it any more. Called under the engine's lock."""
        if self.jobs and all(job.ticket.future.done() for job in self.jobs):
            self.stop.request()
