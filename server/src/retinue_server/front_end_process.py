"""One front-end process, as the engine's process sees it."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from retinue_server.catalog import ServedModel
from retinue_server.tally import Statistics
from retinue_server.tracing.tracer import Tracer
from retinue_server.workers import counts, frames
from retinue_server.workers.channel import Channel
from retinue_server.workers.counts import Counts
from retinue_server.workers.frames import FrameError, Kind, frame
from retinue_server.workers.held import HeldModels
from retinue_server.workers.passed_on import Answers
from retinue_server.workers.serving import Plan
from retinue_server.workers.slots import Place, SharedMemory
from retinue_server.workers.submissions import Submissions

_COUNT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Given:
    """What front-ends are to serve.

    Attributes:
        number: Which state of it this is.
        places: Where the slots of each model are.
        told: How a front-end is told.
    """

    number: int
    places: Mapping[ServedModel, Place]
    told: bytes


class Owner(Protocol):
    """Those that a front-end process belongs to."""

    def note_change(self, number: int) -> None:
        """Is told the number of a model of which a request has come or gone."""
        ...

    def note_listening(self, process: "FrontEndProcess") -> None:
        """Is told that a process can be given models."""
        ...

    async def answer(self, method: str, request: bytes) -> bytes:
        """Answers a call that a front-end passes on."""
        ...


class FrontEndProcess:
    """One front-end process.

    Args:
        owner: Those that it belongs to.
        tracer: Makes spans of the batches that run for it; None makes none.

    Attributes:
        process: It; None until it is started.
        counts: What its metrics said last.
        statistics: What it had counted of each model then.
        models: What it has of each model.
        listening: Set when it can be given models.
        ready: Set when it serves models.
        current: Set when these are the ones that it was given last, or it has ended.
        drained: Set when it has no call in flight and takes no more, or has ended.
        failure: Why it cannot start, in its own words; else empty.
    """

    def __init__(self, owner: Owner, tracer: Tracer | None = None) -> None:
        self.counts = Counts()
        self.statistics: dict[counts.Key, Statistics] = {}
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.current = asyncio.Event()
        self.drained = asyncio.Event()
        self.failure = ""
        self.process: asyncio.subprocess.Process | None = None
        self._owner = owner
        self._memory = SharedMemory.new()
        self.models = HeldModels(self._memory)
        self._channel = Channel(self._on_frame, self._on_lost)
        self._submissions = Submissions(self.models, self._channel.send, owner.note_change, tracer)
        self._answers = Answers(owner.answer, self._channel.send)
        self._given = 0
        self._counted: asyncio.Future[None] | None = None

    async def start(self, plan: Plan) -> None:
        """Starts it and tells it how to serve."""
        ours, theirs = socket.socketpair()
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RETINUE_")}
        await self._channel.open(ours)
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "retinue_server.frontend"),
                *(str(theirs.fileno()), str(self._memory.file)),
                pass_fds=(theirs.fileno(), self._memory.file),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                # Signals of a terminal are for the engine's process.
                start_new_session=True,
            )
        self.send(Kind.SETTINGS, plan.pack())

    def hold(self, given: Given) -> None:
        """Makes ready what it is to have of the models."""
        for model, place in given.places.items():
            self.models.hold(place, model.batcher, model.leases)

    def give(self, given: Given) -> None:
        """Tells it of the models that it is to serve from now on, in place of those before."""
        self._given = given.number
        self.current.clear()
        self.send(Kind.MODELS, given.told)

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Tells it something."""
        self._channel.send(frame(kind, body))

    async def count(self) -> None:
        """Has `counts` brought up to date, unless that takes too long."""
        if self._counted is None:
            self._counted = asyncio.get_running_loop().create_future()
            self.send(Kind.COUNT)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._counted), _COUNT_SECONDS)

    async def answered(self) -> None:
        """Waits until what became of all its requests has been said."""
        await self._submissions.answered()

    async def gone(self) -> int:
        """Waits for its end; returns its exit code."""
        assert self.process is not None
        code = await self.process.wait()
        self.close()
        return code

    def close(self) -> None:
        """Lets go of what it shared with this process."""
        self.drained.set()
        self.current.set()
        self._channel.close()
        self._memory.close()
        self._submissions.drop_all()
        self._answers.drop_all()
        self.models.drop_all()
        if self._counted is not None and not self._counted.done():
            self._counted.set_result(None)

    def kill(self) -> None:
        """Ends it at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()

    def _on_frame(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.SUBMIT:
            self._submissions.submit(body)
        elif kind is Kind.CANCEL:
            self._submissions.cancel(body)
        elif kind is Kind.CALL:
            self._answers.take(body)
        elif kind is Kind.RELEASED:
            self.models.release(frames.unpack_number(body))
        elif kind in (Kind.STATISTICS, Kind.COUNTED):
            self._take_counts(kind, body)
        elif kind is Kind.LISTENING:
            self.listening.set()
            self._owner.note_listening(self)
        elif kind is Kind.READY:
            self.ready.set()
            if frames.unpack_number(body) == self._given:
                self.current.set()
        elif kind is Kind.DRAINED:
            self.drained.set()
        elif kind is Kind.FAILED:
            self.failure = body.decode()
        else:
            raise FrameError(f"an unexpected {kind.name}")

    def _take_counts(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.STATISTICS:
            self.statistics = counts.unpack_statistics(body)
            return
        self.counts = counts.parse(body)
        if self._counted is not None:
            self._counted.set_result(None)
            self._counted = None

    def _on_lost(self) -> None:
        # It has closed the connection and ends, or is told so now.
        if not self.drained.is_set():
            self.kill()
